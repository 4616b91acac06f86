// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_states_one.c - livepatch that carries many states, and looks states up
 *
 * Purpose: carry the states that it is told, and look states up while it is
 * being enabled: in itself, and in the livepatches below it. The versions that
 * were found are read from a parameter, "own/below" for each state, with a
 * hyphen where there is none. It changes nothing.
 *
 * klp_states_two.ko, klp_states_three.ko and klp_states_four.ko are the same
 * livepatch again, to lie upon this one.
 *
 * Usage:
 *
 *   # insmod klp_states_one.ko ids=7,8 versions=1,2
 *   # insmod klp_states_two.ko ids=7 versions=3 look=7,8
 *   # cat /sys/module/klp_states_two/parameters/found
 *   3/1 -/2
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/string.h>

#define MOST	15

static unsigned long ids[MOST];
static unsigned int nr_ids;
module_param_array(ids, ulong, &nr_ids, 0444);
MODULE_PARM_DESC(ids, "ids of its states (default: none)");

static unsigned int versions[MOST];
module_param_array(versions, uint, NULL, 0444);
MODULE_PARM_DESC(versions, "a version for each of ids (default=0)");

static unsigned long look[MOST];
static unsigned int nr_look;
module_param_array(look, ulong, &nr_look, 0444);
MODULE_PARM_DESC(look, "ids of the states to look up (default: none)");

static bool replace;
module_param(replace, bool, 0444);
MODULE_PARM_DESC(replace, "replace all livepatches that are enabled");

static char found[MOST * 24];
module_param_string(found, found, sizeof(found), 0444);
MODULE_PARM_DESC(found, "the versions that were found, own/below for each");

static struct klp_patch patch;

static void tell(struct klp_state *state, const char *end)
{
	size_t used = strlen(found);

	if (state)
		scnprintf(found + used, sizeof(found) - used, "%u%s",
			  state->version, end);
	else
		scnprintf(found + used, sizeof(found) - used, "-%s", end);
}

static int pre_patch(struct klp_object *obj)
{
	unsigned int i;

	for (i = 0; i < nr_look; i++) {
		tell(klp_get_state(&patch, look[i]), "/");
		tell(klp_get_prev_state(look[i]), i + 1 < nr_look ? " " : "");
	}
	return 0;
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
		},
	}, { }
};

/* One more than there can be: the list ends with id 0. */
static struct klp_state states[MOST + 1];

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.states = states,
};

static int __init klp_states_init(void)
{
	unsigned int i;

	for (i = 0; i < nr_ids; i++) {
		states[i].id = ids[i];
		states[i].version = versions[i];
	}
	patch.replace = replace;
	return klp_enable_patch(&patch);
}

static void __exit klp_states_exit(void)
{
}

module_init(klp_states_init);
module_exit(klp_states_exit);
MODULE_DESCRIPTION("Livepatch that carries many states, and looks states up");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
