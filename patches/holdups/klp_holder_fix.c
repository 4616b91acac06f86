// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_holder_fix.c - livepatch whose transition klp_holder.ko holds up
 *
 * Purpose: replace the functions of klp_holder.ko in which tasks wait. The new
 * ones wait just as well, so that the transition back can be held up, too,
 * unless hold=0 says that they return at once. Two callbacks tell the log of
 * it, one of each direction.
 *
 * Usage:
 *
 *   # insmod klp_holder.ko stuck=1
 *   # insmod klp_holder_fix.ko
 *   # cat /sys/kernel/livepatch/klp_holder_fix/transition
 *   1
 *   # echo 0 > /sys/module/klp_holder/parameters/hold
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#include "klp_holder.h"

static bool replace;
module_param(replace, bool, 0444);
MODULE_PARM_DESC(replace, "replace all livepatches that are enabled");

static bool hold = true;
module_param(hold, bool, 0644);
MODULE_PARM_DESC(hold, "the new functions wait, too (default)");

static void livepatch_holder_sleep(struct klp_holder *holder)
{
	if (READ_ONCE(hold))
		klp_holder_do_sleep(holder);
}

static void livepatch_holder_stuck(struct klp_holder *holder)
{
	if (READ_ONCE(hold))
		klp_holder_do_stuck(holder);
}

static void livepatch_holder_spin(struct klp_holder *holder)
{
	if (READ_ONCE(hold))
		klp_holder_do_spin(holder);
}

static int livepatch_holder_read(struct klp_holder *holder)
{
	return READ_ONCE(hold) ? klp_holder_do_read(holder) : 0;
}

static int livepatch_holder_version(int version)
{
	return version + 1;
}

static void post_patch(struct klp_object *obj)
{
	pr_info("post-patch %s\n", obj->name);
}

static void pre_unpatch(struct klp_object *obj)
{
	pr_info("pre-unpatch %s\n", obj->name);
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_holder_sleep",
		.new_func = livepatch_holder_sleep,
	}, {
		.old_name = "klp_holder_stuck",
		.new_func = livepatch_holder_stuck,
	}, {
		.old_name = "klp_holder_spin",
		.new_func = livepatch_holder_spin,
	}, {
		.old_name = "klp_holder_read",
		.new_func = livepatch_holder_read,
	}, {
		.old_name = "klp_holder_version",
		.new_func = livepatch_holder_version,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_holder",
		.funcs = funcs,
		.callbacks = {
			.post_patch = post_patch,
			.pre_unpatch = pre_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_holder_fix_init(void)
{
	patch.replace = replace;
	return klp_enable_patch(&patch);
}

static void __exit klp_holder_fix_exit(void)
{
}

module_init(klp_holder_fix_init);
module_exit(klp_holder_fix_exit);
MODULE_DESCRIPTION("Livepatch whose transition klp_holder holds up");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
