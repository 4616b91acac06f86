// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_buffer_freed.c - a livepatch that frees a buffer once
 *
 * Purpose: fix klp_target.ko's answer, and keep a buffer of answers in a shadow
 * variable of the module. Its destructor frees the buffer. A second call finds
 * no variable and frees nothing: klp_shadow_free() allows for that.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

/* Shadow variable ids: one number space for all livepatches of a kernel. */
#define SV_HISTORY	0x6b6c7c02
#define HISTORY_SIZE	(64 * sizeof(int))

struct history {
	int *answers;
};

static int history_ctor(void *obj, void *shadow_data, void *ctor_data)
{
	struct history *history = shadow_data;

	history->answers = vzalloc(HISTORY_SIZE);
	return history->answers ? 0 : -ENOMEM;
}

static void history_dtor(void *obj, void *shadow_data)
{
	struct history *history = shadow_data;

	vfree(history->answers);
	history->answers = NULL;
}

static int pre_patch(struct klp_object *obj)
{
	if (!klp_shadow_alloc(obj->mod, SV_HISTORY, sizeof(struct history),
			      GFP_KERNEL, history_ctor, NULL))
		return -ENOMEM;
	return 0;
}

static int livepatch_target_answer(int from)
{
	return from * 7;
}

static void post_unpatch(struct klp_object *obj)
{
	klp_shadow_free(obj->mod, SV_HISTORY, history_dtor);
	klp_shadow_free(obj->mod, SV_HISTORY, history_dtor);
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_target_answer",
		.new_func = livepatch_target_answer,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_target",
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

static int __init klp_good_buffer_freed_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_buffer_freed_exit(void)
{
}

module_init(klp_good_buffer_freed_init);
module_exit(klp_good_buffer_freed_exit);
MODULE_DESCRIPTION("Livepatch that frees a buffer once");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
