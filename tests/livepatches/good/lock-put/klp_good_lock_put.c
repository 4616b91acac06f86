// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_lock_put.c - a livepatch that puts its lock on every path
 *
 * Purpose: mark /proc/execdomains, and count its readers under a lock.
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
		goto out;
	}
	seq_printf(m, "0-0\tLinux, livepatched, reader %u\n", readers);
out:
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

static int __init klp_good_lock_put_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_lock_put_exit(void)
{
}

module_init(klp_good_lock_put_init);
module_exit(klp_good_lock_put_exit);
MODULE_DESCRIPTION("Livepatch that puts its lock on every path");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
