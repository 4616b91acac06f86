/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * klp_ext.h - what klp_ext.ko and its livepatches agree on
 */

#ifndef KLP_EXT_H
#define KLP_EXT_H

#include <linux/list.h>
#include <linux/seq_file.h>

/* Shadow variable ids: one number space for all livepatches of a kernel. */
#define SV_READS	0x6b6c7201
#define SV_LAST		0x6b6c7202

/* The structure that cannot grow, because others know its size. */
struct klp_ext_item {
	struct list_head list;
	int number;
};

#endif /* KLP_EXT_H */
