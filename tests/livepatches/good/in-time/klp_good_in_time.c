// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_in_time.c - a livepatch that is ready when its new function runs
 *
 * Purpose: mark /proc/version with what pre-patch takes its time to make,
 * before anybody runs the new function.
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

static int pre_patch(struct klp_object *obj)
{
	return make_banner();
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
			.pre_patch = pre_patch,
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_in_time_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_in_time_exit(void)
{
}

module_init(klp_good_in_time_init);
module_exit(klp_good_in_time_exit);
MODULE_DESCRIPTION("Livepatch that is ready in time");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
