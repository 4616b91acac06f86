// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_large_leak.c - a livepatch whose function does not free its large buffer
 *
 * Purpose: mark /proc/version, with a line that is put together first.
 *
 * Fault: the buffer of that line is never freed, so that each call loses one;
 * it is too large for any cache.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/utsname.h>

#define LINE_SIZE	10000

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	char *line = kmalloc(LINE_SIZE, GFP_KERNEL);

	if (!line)
		return -ENOMEM;
	scnprintf(line, LINE_SIZE, "%s version %s, livepatched",
		  utsname()->sysname, utsname()->release);
	seq_printf(m, "%s\n", line);
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

static int __init klp_bad_large_leak_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_large_leak_exit(void)
{
}

module_init(klp_bad_large_leak_init);
module_exit(klp_bad_large_leak_exit);
MODULE_DESCRIPTION("Livepatch that loses a large buffer with each call");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
