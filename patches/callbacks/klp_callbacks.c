// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_callbacks.c - livepatch that does by callbacks what functions cannot do
 *
 * Purpose: have all four callbacks for vmlinux and for a module that comes and
 * goes, and do in them what they are for:
 *
 *   vmlinux	global data is updated: overflowuid from pre-patch to
 *		post-unpatch, overflowgid from post-patch to pre-unpatch
 *   klp_callbacks_target
 *		the probe function is mended for devices to come, and the
 *		devices that it has made already are mended in post-patch;
 *		pre-unpatch gives them back what the probe function gave
 *   klp_holder	has no callbacks; a task that sleeps in its function holds up
 *		the transition in which that module may come or go
 *
 * Any pre-patch callback can be told to fail, and all to be slow, at any time:
 *
 *   # echo 19 > /sys/module/klp_callbacks/parameters/target_errno
 *   # insmod klp_callbacks_target.ko
 *   insmod: ERROR: could not insert module klp_callbacks_target.ko: No such device
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/device.h>
#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>

#include "klp_callbacks.h"

#define PATCHED_ID 1234

static unsigned int vmlinux_errno;
module_param(vmlinux_errno, uint, 0644);
MODULE_PARM_DESC(vmlinux_errno, "with which vmlinux' pre-patch fails (default=0)");

static unsigned int target_errno;
module_param(target_errno, uint, 0644);
MODULE_PARM_DESC(target_errno, "with which the target's pre-patch fails (default=0)");

static unsigned int slow_ms;
module_param(slow_ms, uint, 0644);
MODULE_PARM_DESC(slow_ms, "how long each callback sleeps (default=0)");

static bool replace;
module_param(replace, bool, 0444);
MODULE_PARM_DESC(replace, "replace all livepatches that are enabled");

static int saved_overflowuid;
static int saved_overflowgid;

static void tell(struct klp_object *obj, const char *callback)
{
	if (READ_ONCE(slow_ms))
		msleep(slow_ms);
	pr_info("%s %s\n", callback, obj->name ?: "vmlinux");
}

static int vmlinux_pre_patch(struct klp_object *obj)
{
	tell(obj, "pre-patch");
	if (vmlinux_errno)
		return -(int)vmlinux_errno;

	saved_overflowuid = overflowuid;
	overflowuid = PATCHED_ID;
	return 0;
}

static void vmlinux_post_patch(struct klp_object *obj)
{
	tell(obj, "post-patch");
	saved_overflowgid = overflowgid;
	overflowgid = PATCHED_ID;
}

static void vmlinux_pre_unpatch(struct klp_object *obj)
{
	tell(obj, "pre-unpatch");
	overflowgid = saved_overflowgid;
}

static void vmlinux_post_unpatch(struct klp_object *obj)
{
	tell(obj, "post-unpatch");
	overflowuid = saved_overflowuid;
}

static int set_features(struct device *dev, void *features)
{
	struct klp_callbacks_device *own = dev_get_drvdata(dev);

	if (own)
		WRITE_ONCE(own->features, *(u32 *)features);
	return 0;
}

/* A module that is coming has no driver yet, and one that is going has none. */
static void set_all_features(u32 features)
{
	struct device_driver *driver;

	driver = driver_find(KLP_CALLBACKS_DRIVER, &platform_bus_type);
	if (driver && driver_for_each_device(driver, NULL, &features, set_features))
		pr_err("not all devices were reached\n");
}

static int target_pre_patch(struct klp_object *obj)
{
	tell(obj, "pre-patch");
	return -(int)target_errno;
}

static void target_post_patch(struct klp_object *obj)
{
	tell(obj, "post-patch");
	set_all_features(KLP_CALLBACKS_SOUND);
}

static void target_pre_unpatch(struct klp_object *obj)
{
	tell(obj, "pre-unpatch");
	set_all_features(KLP_CALLBACKS_SOUND | KLP_CALLBACKS_BROKEN);
}

static void target_post_unpatch(struct klp_object *obj)
{
	tell(obj, "post-unpatch");
}

static int livepatch_callbacks_probe(struct platform_device *pdev)
{
	struct klp_callbacks_device *own;

	own = devm_kzalloc(&pdev->dev, sizeof(*own), GFP_KERNEL);
	if (!own)
		return -ENOMEM;

	own->features = KLP_CALLBACKS_SOUND;
	platform_set_drvdata(pdev, own);
	return 0;
}

static void livepatch_holder_sleep(void *holder)
{
}

static struct klp_func no_funcs[] = {
	{ }
};

static struct klp_func target_funcs[] = {
	{
		.old_name = "klp_callbacks_probe",
		.new_func = livepatch_callbacks_probe,
	}, { }
};

static struct klp_func holder_funcs[] = {
	{
		.old_name = "klp_holder_sleep",
		.new_func = livepatch_holder_sleep,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = no_funcs,
		.callbacks = {
			.pre_patch = vmlinux_pre_patch,
			.post_patch = vmlinux_post_patch,
			.pre_unpatch = vmlinux_pre_unpatch,
			.post_unpatch = vmlinux_post_unpatch,
		},
	}, {
		.name = "klp_callbacks_target",
		.funcs = target_funcs,
		.callbacks = {
			.pre_patch = target_pre_patch,
			.post_patch = target_post_patch,
			.pre_unpatch = target_pre_unpatch,
			.post_unpatch = target_post_unpatch,
		},
	}, {
		.name = "klp_holder",
		.funcs = holder_funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_callbacks_init(void)
{
	patch.replace = replace;
	pr_info("init\n");
	return klp_enable_patch(&patch);
}

static void __exit klp_callbacks_exit(void)
{
	pr_info("exit\n");
}

module_init(klp_callbacks_init);
module_exit(klp_callbacks_exit);
MODULE_DESCRIPTION("Livepatch that does by callbacks what functions cannot do");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
