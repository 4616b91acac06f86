// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_long_callback.c - a livepatch whose callback takes too long
 *
 * Purpose: mark /proc/version, once a device that is not there had time to settle.
 *
 * Fault: the core calls post-patch with klp_mutex held, and it sleeps for 12 seconds
 * in which no module can be loaded.
 */

#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static void post_patch(struct klp_object *obj)
{
	msleep(12 * MSEC_PER_SEC);
}

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, livepatched\n", utsname()->sysname,
		   utsname()->release);
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
			.post_patch = post_patch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_long_callback_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_long_callback_exit(void)
{
}

module_init(klp_bad_long_callback_init);
module_exit(klp_bad_long_callback_exit);
MODULE_DESCRIPTION("Livepatch whose callback takes too long");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
