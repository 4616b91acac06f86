// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_every_call.c - a livepatch whose new function works every time
 *
 * Purpose: mark /proc/version, and count its readers with what the first one
 * makes. It is freed when nobody can be in the new function.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/utsname.h>

struct readers {
	unsigned int count;
};

static DEFINE_MUTEX(readers_lock);
static struct readers *readers;

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	unsigned int count = 0;

	mutex_lock(&readers_lock);
	if (!readers)
		readers = kzalloc(sizeof(*readers), GFP_KERNEL);
	if (readers)
		count = ++readers->count;
	mutex_unlock(&readers_lock);

	seq_printf(m, "%s version %s, reader %u, livepatched\n",
		   utsname()->sysname, utsname()->release, count);
	return 0;
}

static void post_unpatch(struct klp_object *obj)
{
	kfree(readers);
	readers = NULL;
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

static int __init klp_good_every_call_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_every_call_exit(void)
{
}

module_init(klp_good_every_call_init);
module_exit(klp_good_every_call_exit);
MODULE_DESCRIPTION("Livepatch whose new function works every time");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
