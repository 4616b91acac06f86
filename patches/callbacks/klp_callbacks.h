/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * klp_callbacks.h - what klp_callbacks_target.ko and its livepatch agree on
 */

#ifndef KLP_CALLBACKS_H
#define KLP_CALLBACKS_H

#include <linux/types.h>

#define KLP_CALLBACKS_DRIVER	"klp_callbacks"

#define KLP_CALLBACKS_SOUND	0x7
#define KLP_CALLBACKS_BROKEN	0x8

/* The driver data of a device. */
struct klp_callbacks_device {
	u32 features;
};

#endif /* KLP_CALLBACKS_H */
