// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_state.c - livepatch with a system state, which it hands over
 *
 * Purpose: change something outside the code, /proc/sys/kernel/overflowgid,
 * and keep what it was in the data of a system state, through all five cases
 * of a state's life: first change, take-over from a livepatch that is being
 * replaced, restoration when disabled, restoration of what was when reversed,
 * and clean-up when enabling fails.
 *
 * klp_state_next.ko is the same livepatch again, to follow upon this one.
 *
 * A transition can be held up by klp_holder.ko's sleepers=1: its function
 * klp_holder_sleep() is replaced by one that does not wait, or with hold=1
 * waits as well: then the next livepatch's transition is held up. With
 * fail=ERRNO the pre-patch callback for klp_holder.ko refuses, after that for
 * vmlinux has made its preparations.
 *
 * Usage:
 *
 *   # insmod klp_state.ko version=1
 *   # cat /proc/sys/kernel/overflowgid
 *   1001
 *   # insmod klp_state_next.ko version=2
 *   # cat /proc/sys/kernel/overflowgid
 *   1002
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/slab.h>

/* Ids of states are one number space for all livepatches of a kernel. */
#define STATE_OVERFLOWGID	0x6b6c7301
#define PATCHED_OVERFLOWGID	1000

static unsigned int version = 1;
module_param(version, uint, 0444);
MODULE_PARM_DESC(version, "of the state (default=1)");

static bool carry = true;
module_param(carry, bool, 0444);
MODULE_PARM_DESC(carry, "know the state at all (default)");

static bool replace = true;
module_param(replace, bool, 0444);
MODULE_PARM_DESC(replace, "replace all livepatches that are enabled (default)");

static unsigned int fail;
module_param(fail, uint, 0444);
MODULE_PARM_DESC(fail, "errno with which klp_holder's pre-patch fails");

static bool hold;
module_param(hold, bool, 0644);
MODULE_PARM_DESC(hold, "the new klp_holder_sleep() waits, too");

static struct klp_patch patch;

/* What a state's data points to; whoever holds it frees it. */
struct saved {
	int overflowgid;
};

/* The state of a livepatch that this one is about to replace, or NULL. */
static struct klp_state *former(void)
{
	return patch.replace ? klp_get_prev_state(STATE_OVERFLOWGID) : NULL;
}

static int pre_patch(struct klp_object *obj)
{
	struct klp_state *state = klp_get_state(&patch, STATE_OVERFLOWGID);
	struct saved *saved;

	if (!state)
		return 0;

	if (former()) {
		pr_info("finds the state, version %u\n", former()->version);
		return 0;
	}

	saved = kzalloc(sizeof(*saved), GFP_KERNEL);
	if (!saved)
		return -ENOMEM;

	saved->overflowgid = overflowgid;
	state->data = saved;
	pr_info("saved overflowgid %d\n", saved->overflowgid);
	return 0;
}

static void post_patch(struct klp_object *obj)
{
	struct klp_state *state = klp_get_state(&patch, STATE_OVERFLOWGID);
	struct klp_state *prev = former();

	if (!state)
		return;

	if (prev) {
		state->data = prev->data;
		prev->data = NULL;
		pr_info("took over the state, version %u\n", prev->version);
	}
	overflowgid = PATCHED_OVERFLOWGID + version;
	pr_info("set overflowgid %d\n", overflowgid);
}

static void pre_unpatch(struct klp_object *obj)
{
	struct klp_state *state = klp_get_state(&patch, STATE_OVERFLOWGID);
	struct saved *saved;

	if (!state)
		return;

	saved = state->data;
	overflowgid = saved->overflowgid;
	pr_info("restored overflowgid %d\n", overflowgid);
}

static void post_unpatch(struct klp_object *obj)
{
	struct klp_state *state = klp_get_state(&patch, STATE_OVERFLOWGID);

	if (!state)
		return;

	if (!state->data) {
		pr_info("left the state to its former owner\n");
		return;
	}
	kfree(state->data);
	state->data = NULL;
	pr_info("freed the state\n");
}

static int holder_pre_patch(struct klp_object *obj)
{
	return -(int)fail;
}

static void livepatch_holder_sleep(void *holder)
{
	while (READ_ONCE(hold))
		msleep_interruptible(20);
}

static struct klp_func no_funcs[] = {
	{ }
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
			.pre_patch = pre_patch,
			.post_patch = post_patch,
			.pre_unpatch = pre_unpatch,
			.post_unpatch = post_unpatch,
		},
	}, {
		.name = "klp_holder",
		.funcs = holder_funcs,
		.callbacks = {
			.pre_patch = holder_pre_patch,
		},
	}, { }
};

static struct klp_state states[] = {
	{
		.id = STATE_OVERFLOWGID,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_state_init(void)
{
	states[0].version = version;
	patch.states = carry ? states : NULL;
	patch.replace = replace;
	return klp_enable_patch(&patch);
}

static void __exit klp_state_exit(void)
{
	if (states[0].data)
		pr_err("leaves the state's data behind\n");
}

module_init(klp_state_init);
module_exit(klp_state_exit);
MODULE_DESCRIPTION("Livepatch with a system state, which it hands over");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
