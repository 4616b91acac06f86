// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_pktgen_put_back.c - a livepatch of a module of the kernel's own
 *
 * Purpose: change what pktgen.ko shows in /proc/net/pktgen/pgctrl, by what
 * cordic.ko calculates; both are modules of the kernel's own. While pktgen.ko is
 * there, /proc/sys/kernel/overflowuid is changed.
 *
 * Post-unpatch changes it back.
 */

#include <linux/cordic.h>
#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>

#define PATCHED_OVERFLOWUID	1234

static int saved;

static int pre_patch(struct klp_object *obj)
{
	saved = overflowuid;
	overflowuid = PATCHED_OVERFLOWUID;
	return 0;
}

static void post_unpatch(struct klp_object *obj)
{
	overflowuid = saved;
}

/* The angle 0 has the sine 0, whatever the calculation's scale. */
static int livepatch_pgctrl_show(struct seq_file *m, void *v)
{
	struct cordic_iq iq = cordic_calc_iq(CORDIC_FIXED(0));

	seq_printf(m, "livepatched, with a positive cosine: %d\n", iq.i > 0);
	return 0;
}

static struct klp_func funcs[] = {
	{
		.old_name = "pgctrl_show",
		.new_func = livepatch_pgctrl_show,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "pktgen",
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

static int __init klp_good_pktgen_put_back_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_pktgen_put_back_exit(void)
{
}

module_init(klp_good_pktgen_put_back_init);
module_exit(klp_good_pktgen_put_back_exit);
MODULE_DESCRIPTION("Livepatch of a module of the kernel's own");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
