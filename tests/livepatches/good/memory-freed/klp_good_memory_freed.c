// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_memory_freed.c - a livepatch whose function frees its buffer
 *
 * Purpose: mark /proc/version, with a line that is put together first.
 *
 * The buffer of that line is freed by the next call, the last one when the
 * livepatch is disabled: it is no leak that there is always one.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/utsname.h>

#define LINE_SIZE	1024

static char *last;

static void post_unpatch(struct klp_object *obj)
{
	kfree(xchg(&last, NULL));
}

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	char *line = kmalloc(LINE_SIZE, GFP_KERNEL);

	if (!line)
		return -ENOMEM;
	scnprintf(line, LINE_SIZE, "%s version %s, livepatched",
		  utsname()->sysname, utsname()->release);
	seq_printf(m, "%s\n", line);
	kfree(xchg(&last, line));
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
		.callbacks = {
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_memory_freed_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_memory_freed_exit(void)
{
}

module_init(klp_good_memory_freed_init);
module_exit(klp_good_memory_freed_exit);
MODULE_DESCRIPTION("Livepatch that frees what each call allocates");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
