// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_use_after_free.c - a livepatch that writes into what it freed
 *
 * Purpose: tell the reader of /proc/version who reads it.
 *
 * Fault: that the reader was told is noted in its record when that is freed.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/utsname.h>

struct reader {
	char comm[TASK_COMM_LEN];
	pid_t pid;
	bool told;
};

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	struct reader *reader = kzalloc(sizeof(*reader), GFP_KERNEL);

	if (!reader)
		return -ENOMEM;
	strscpy(reader->comm, current->comm, sizeof(reader->comm));
	reader->pid = task_pid_nr(current);
	seq_printf(m, "%s version %s, livepatched for %s[%d]\n",
		   utsname()->sysname, utsname()->release, reader->comm,
		   reader->pid);
	kfree(reader);
	reader->told = true;
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

static int __init klp_bad_use_after_free_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_use_after_free_exit(void)
{
}

module_init(klp_bad_use_after_free_init);
module_exit(klp_bad_use_after_free_exit);
MODULE_DESCRIPTION("Livepatch that writes into what it freed");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
