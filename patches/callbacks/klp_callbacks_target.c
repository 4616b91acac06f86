// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_callbacks_target.c - devices with a mistake in their probe function
 *
 * Purpose: be the module whose coming and going klp_callbacks.ko attends, and
 * whose effects a patched function alone cannot mend: the probe function gives
 * each of three devices a feature too many, once, and they keep it. Each shows
 * its features in /sys/bus/platform/devices/klp_callbacks.N/features.
 *
 * Usage:
 *
 *   # insmod klp_callbacks_target.ko
 *   # cat /sys/bus/platform/devices/klp_callbacks.?/features
 *   0xf
 *   0xf
 *   0xf
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/device.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "klp_callbacks.h"

#define DEVICES 3

static struct platform_device *devices[DEVICES];

static ssize_t features_show(struct device *dev, struct device_attribute *attr,
			     char *buf)
{
	struct klp_callbacks_device *own = dev_get_drvdata(dev);

	return sysfs_emit(buf, "%#x\n", READ_ONCE(own->features));
}
static DEVICE_ATTR_RO(features);

static struct attribute *klp_callbacks_attrs[] = {
	&dev_attr_features.attr,
	NULL
};
ATTRIBUTE_GROUPS(klp_callbacks);

/* Oops: KLP_CALLBACKS_BROKEN is a feature that these devices do not have. */
static int klp_callbacks_probe(struct platform_device *pdev)
{
	struct klp_callbacks_device *own;

	own = devm_kzalloc(&pdev->dev, sizeof(*own), GFP_KERNEL);
	if (!own)
		return -ENOMEM;

	own->features = KLP_CALLBACKS_SOUND | KLP_CALLBACKS_BROKEN;
	platform_set_drvdata(pdev, own);
	return 0;
}

static struct platform_driver klp_callbacks_driver = {
	.driver = {
		.name = KLP_CALLBACKS_DRIVER,
		.dev_groups = klp_callbacks_groups,
	},
	.probe = klp_callbacks_probe,
};

static void klp_callbacks_remove_devices(void)
{
	int i;

	for (i = 0; i < DEVICES && !IS_ERR_OR_NULL(devices[i]); i++)
		platform_device_unregister(devices[i]);
}

static int __init klp_callbacks_target_init(void)
{
	int err, i;

	err = platform_driver_register(&klp_callbacks_driver);
	if (err)
		return err;

	for (i = 0; i < DEVICES; i++) {
		devices[i] = platform_device_register_simple(KLP_CALLBACKS_DRIVER,
							     i, NULL, 0);
		if (IS_ERR(devices[i])) {
			klp_callbacks_remove_devices();
			platform_driver_unregister(&klp_callbacks_driver);
			return PTR_ERR(devices[i]);
		}
	}
	return 0;
}

static void __exit klp_callbacks_target_exit(void)
{
	klp_callbacks_remove_devices();
	platform_driver_unregister(&klp_callbacks_driver);
}

module_init(klp_callbacks_target_init);
module_exit(klp_callbacks_target_exit);
MODULE_DESCRIPTION("Devices with a mistake in their probe function");
MODULE_LICENSE("GPL");
