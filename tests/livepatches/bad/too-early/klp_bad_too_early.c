// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_too_early.c - a livepatch whose new function runs before it is ready
 *
 * Purpose: mark /proc/version with what a callback takes its time to make.
 *
 * Fault: that is post-patch, which runs when the new function has been in use
 * since the transition began.
 */

#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/utsname.h>

static char *banner;

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, %c%s\n", utsname()->sysname,
		   utsname()->release, banner[0], banner + 1);
	return 0;
}

static int make_banner(void)
{
	msleep(500);
	banner = kstrdup("livepatched", GFP_KERNEL);
	return banner ? 0 : -ENOMEM;
}

static void post_patch(struct klp_object *obj)
{
	make_banner();
}

static void post_unpatch(struct klp_object *obj)
{
	kfree(banner);
	banner = NULL;
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
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_too_early_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_too_early_exit(void)
{
}

module_init(klp_bad_too_early_init);
module_exit(klp_bad_too_early_exit);
MODULE_DESCRIPTION("Livepatch whose new function runs too early");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
