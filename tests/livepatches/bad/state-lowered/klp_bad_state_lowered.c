// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_state_lowered.c - a replacement with too old a state
 *
 * Purpose: replace klp_state.ko, and take over its system state.
 *
 * Fault: it knows version 1 of the state, and version 2 is installed.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/slab.h>

/* klp_state.ko's */
#define STATE_OVERFLOWGID	0x6b6c7301
#define PATCHED_OVERFLOWGID	2000

static struct klp_patch patch;

struct saved {
	int overflowgid;
};

static int pre_patch(struct klp_object *obj)
{
	struct klp_state *state = klp_get_state(&patch, STATE_OVERFLOWGID);
	struct saved *saved;

	if (klp_get_prev_state(STATE_OVERFLOWGID))
		return 0;

	saved = kzalloc(sizeof(*saved), GFP_KERNEL);
	if (!saved)
		return -ENOMEM;
	saved->overflowgid = overflowgid;
	state->data = saved;
	return 0;
}

static void post_patch(struct klp_object *obj)
{
	struct klp_state *prev = klp_get_prev_state(STATE_OVERFLOWGID);

	if (prev) {
		klp_get_state(&patch, STATE_OVERFLOWGID)->data = prev->data;
		prev->data = NULL;
	}
	overflowgid = PATCHED_OVERFLOWGID;
}

static void pre_unpatch(struct klp_object *obj)
{
	struct saved *saved = klp_get_state(&patch, STATE_OVERFLOWGID)->data;

	overflowgid = saved->overflowgid;
}

/* Reversed before it took over: the data are still the former owner's. */
static void post_unpatch(struct klp_object *obj)
{
	struct klp_state *state = klp_get_state(&patch, STATE_OVERFLOWGID);

	kfree(state->data);
	state->data = NULL;
}

static struct klp_func no_funcs[] = {
	{ }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = no_funcs,
		.callbacks = {
			.pre_patch = pre_patch,
			.post_patch = post_patch,
			.pre_unpatch = pre_unpatch,
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_state states[] = {
	{
		.id = STATE_OVERFLOWGID,
		.version = 1,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.states = states,
	.replace = true,
};

static int __init klp_bad_state_lowered_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_state_lowered_exit(void)
{
}

module_init(klp_bad_state_lowered_init);
module_exit(klp_bad_state_lowered_exit);
MODULE_DESCRIPTION("Replacement with too old a state");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
