// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_out_of_service.c - a livepatch with a setting that is out of service meanwhile
 *
 * Purpose: mark /proc/version, and change /proc/sys/kernel/overflowuid.
 *
 * Fault: pre-patch takes the old value away, and only post-patch sets the new one;
 * likewise on the way back. The transition in between lasts as long as anybody
 * sleeps in the function.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

#define OUT_OF_SERVICE		1
#define PATCHED_OVERFLOWUID	1234

static void take_out(struct klp_object *obj)
{
	overflowuid = OUT_OF_SERVICE;
}

static int pre_patch(struct klp_object *obj)
{
	take_out(obj);
	return 0;
}

static void post_patch(struct klp_object *obj)
{
	overflowuid = PATCHED_OVERFLOWUID;
}

static void pre_unpatch(struct klp_object *obj)
{
	take_out(obj);
}

static void post_unpatch(struct klp_object *obj)
{
	overflowuid = DEFAULT_OVERFLOWUID;
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
			.pre_patch = pre_patch,
			.post_patch = post_patch,
			.pre_unpatch = pre_unpatch,
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_out_of_service_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_out_of_service_exit(void)
{
}

module_init(klp_bad_out_of_service_init);
module_exit(klp_bad_out_of_service_exit);
MODULE_DESCRIPTION("Livepatch with a setting that is out of service meanwhile");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
