// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_whole_line.c - a livepatch that allocates the end of its line, too
 *
 * Purpose: have /proc/version as a line of a fixed width.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/utsname.h>

static unsigned int width = 64;
module_param(width, uint, 0444);
MODULE_PARM_DESC(width, "how wide a line is");

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	char *line = kmalloc(width + 1, GFP_KERNEL);
	int length;

	if (!line)
		return -ENOMEM;
	length = scnprintf(line, width, "%s %s, livepatched",
			   utsname()->sysname, utsname()->release);
	memset(line + length, '.', width - length);
	line[width] = '\0';
	seq_printf(m, "%s\n", line);
	kfree(line);
	return 0;
}

static struct klp_func funcs[] = {
	{
		.old_name = "version_proc_show",
		.new_func = livepatch_version_proc_show,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_whole_line_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_whole_line_exit(void)
{
}

module_init(klp_good_whole_line_init);
module_exit(klp_good_whole_line_exit);
MODULE_DESCRIPTION("Livepatch that fills its buffer to the last byte");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
