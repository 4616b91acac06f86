// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_out_of_bounds.c - a livepatch that writes behind its buffer
 *
 * Purpose: have /proc/version as a line of a fixed width.
 *
 * Fault: the buffer is as wide as the line, and what ends the line is written
 * one byte past its end, with each call.
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
	char *line = kmalloc(width, GFP_KERNEL);
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

static int __init klp_bad_out_of_bounds_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_out_of_bounds_exit(void)
{
}

module_init(klp_bad_out_of_bounds_init);
module_exit(klp_bad_out_of_bounds_exit);
MODULE_DESCRIPTION("Livepatch that writes behind its buffer");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
