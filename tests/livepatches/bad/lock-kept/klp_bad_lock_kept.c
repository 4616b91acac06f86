// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_lock_kept.c - a livepatch that keeps its lock
 *
 * Purpose: mark /proc/execdomains, and count its readers under a lock.
 *
 * Fault: the first reader returns with the lock held, so that the second sleeps
 * for ever.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>

static DEFINE_MUTEX(readers_lock);
static unsigned int readers;

static int livepatch_execdomains_proc_show(struct seq_file *m, void *v)
{
	mutex_lock(&readers_lock);
	if (!readers++) {
		seq_puts(m, "0-0\tLinux, livepatched, first reader\n");
		return 0;
	}
	seq_printf(m, "0-0\tLinux, livepatched, reader %u\n", readers);
	mutex_unlock(&readers_lock);
	return 0;
}

static struct klp_func funcs[] = {
	{
		.old_name = "execdomains_proc_show",
		.new_func = livepatch_execdomains_proc_show,
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

static int __init klp_bad_lock_kept_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_lock_kept_exit(void)
{
}

module_init(klp_bad_lock_kept_init);
module_exit(klp_bad_lock_kept_exit);
MODULE_DESCRIPTION("Livepatch that keeps its lock");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
