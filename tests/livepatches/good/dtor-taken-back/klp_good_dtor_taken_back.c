// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_dtor_taken_back.c - a livepatch that takes its destructor back
 *
 * Purpose: mend the devices of klp_callbacks_target.ko, and keep in a shadow
 * variable what each had. A device that goes takes its variable with it, by an
 * action of its own that calls the variable's destructor.
 * Before the livepatch goes, it takes back the actions of all devices that are
 * left.
 */

#include <linux/device.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/types.h>

#include "klp_callbacks.h"

/* Shadow variable ids: one number space for all livepatches of a kernel. */
#define SV_FORMER	0x6b6c7c0a

/* The destructor of a device's shadow variable: the device gets back what it had. */
static void former_dtor(void *obj, void *shadow_data)
{
	struct klp_callbacks_device *own = obj;

	own->features = *(u32 *)shadow_data;
}

/* Called with a device that goes, too. */
static void forget(void *own)
{
	klp_shadow_free(own, SV_FORMER, former_dtor);
}

static int mend(struct device *dev, void *nothing)
{
	struct klp_callbacks_device *own = dev_get_drvdata(dev);
	u32 *former;

	if (!own)
		return 0;
	former = klp_shadow_alloc(own, SV_FORMER, sizeof(*former), GFP_KERNEL,
				  NULL, NULL);
	if (!former)
		return -ENOMEM;
	*former = own->features;
	own->features = KLP_CALLBACKS_SOUND;
	return devm_add_action(dev, forget, own);
}

static int restore(struct device *dev, void *nothing)
{
	struct klp_callbacks_device *own = dev_get_drvdata(dev);

	if (own)
		devm_release_action(dev, forget, own);
	return 0;
}

static void each_device(int (*action)(struct device *dev, void *nothing))
{
	struct device_driver *driver;

	driver = driver_find(KLP_CALLBACKS_DRIVER, &platform_bus_type);
	if (driver && driver_for_each_device(driver, NULL, NULL, action))
		pr_err("not all devices were reached\n");
}

static void post_patch(struct klp_object *obj)
{
	each_device(mend);
}

static void pre_unpatch(struct klp_object *obj)
{
	each_device(restore);
}

static struct klp_func no_funcs[] = {
	{ }
};

static struct klp_object objs[] = {
	{
		.name = "klp_callbacks_target",
		.funcs = no_funcs,
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

static int __init klp_good_dtor_taken_back_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_dtor_taken_back_exit(void)
{
}

module_init(klp_good_dtor_taken_back_init);
module_exit(klp_good_dtor_taken_back_exit);
MODULE_DESCRIPTION("Livepatch that takes its destructor back");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
