/*
 * Prints what the kernel's own headers say, "name value" a line. What an older header lacks is left out: a number by its
 * own #ifdef (the test puts those where NUMBERS stands), a struct or field by that of a number that came with it.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/ublk_cmd.h>

#define NUMBER(name) printf("%s %llu\n", #name, (unsigned long long)(name))
#define SIZE(type) printf("sizeof(%s) %zu\n", #type, sizeof(struct type))
#define OFFSET(type, field) printf("offsetof(%s.%s) %zu\n", #type, #field, offsetof(struct type, field))
#define FIELD(type, field) do { \
	OFFSET(type, field); \
	printf("sizeof(%s.%s) %zu\n", #type, #field, sizeof(((struct type *)0)->field)); \
} while (0)

static void control(void)
{
	SIZE(ublksrv_ctrl_cmd);
	FIELD(ublksrv_ctrl_cmd, dev_id);
	FIELD(ublksrv_ctrl_cmd, queue_id);
	FIELD(ublksrv_ctrl_cmd, len);
	FIELD(ublksrv_ctrl_cmd, addr);
#ifdef UBLK_F_UNPRIVILEGED_DEV
	FIELD(ublksrv_ctrl_cmd, data);	/* it had two elements before dev_path_len took the place of the second */
	FIELD(ublksrv_ctrl_cmd, dev_path_len);
#endif
	SIZE(ublksrv_ctrl_dev_info);
	FIELD(ublksrv_ctrl_dev_info, nr_hw_queues);
	FIELD(ublksrv_ctrl_dev_info, queue_depth);
	FIELD(ublksrv_ctrl_dev_info, state);
	FIELD(ublksrv_ctrl_dev_info, max_io_buf_bytes);
	FIELD(ublksrv_ctrl_dev_info, dev_id);
	FIELD(ublksrv_ctrl_dev_info, ublksrv_pid);
	FIELD(ublksrv_ctrl_dev_info, flags);
	FIELD(ublksrv_ctrl_dev_info, ublksrv_flags);
#ifdef UBLK_F_UNPRIVILEGED_DEV
	FIELD(ublksrv_ctrl_dev_info, owner_uid);
	FIELD(ublksrv_ctrl_dev_info, owner_gid);
#endif
#ifdef UBLK_F_IO_DESC_SIZE
	FIELD(ublksrv_ctrl_dev_info, io_desc_size);
#endif
#ifdef UBLK_SHMEM_BUF_READ_ONLY
	SIZE(ublk_shmem_buf_reg);
	FIELD(ublk_shmem_buf_reg, addr);
	FIELD(ublk_shmem_buf_reg, len);
	FIELD(ublk_shmem_buf_reg, flags);
	FIELD(ublk_shmem_buf_reg, reserved);
#endif
}

static void io(void)
{
	SIZE(ublksrv_io_cmd);
	FIELD(ublksrv_io_cmd, q_id);
	FIELD(ublksrv_io_cmd, tag);
	FIELD(ublksrv_io_cmd, result);
	FIELD(ublksrv_io_cmd, addr);
	SIZE(ublksrv_io_desc);
	FIELD(ublksrv_io_desc, op_flags);
	FIELD(ublksrv_io_desc, nr_sectors);
	FIELD(ublksrv_io_desc, start_sector);
	FIELD(ublksrv_io_desc, addr);
#ifdef UBLK_F_BATCH_IO
	SIZE(ublk_batch_io);
	FIELD(ublk_batch_io, q_id);
	FIELD(ublk_batch_io, flags);
	FIELD(ublk_batch_io, nr_elem);
	FIELD(ublk_batch_io, elem_bytes);
	SIZE(ublk_elem_header);
	FIELD(ublk_elem_header, tag);
	FIELD(ublk_elem_header, buf_index);
	FIELD(ublk_elem_header, result);
	/* The header describes an element's optional parts in a comment only: this is that comment, as a struct. */
	struct both { struct ublk_elem_header header; __u64 buf_addr; __u64 zone_lba; };
	struct lba { struct ublk_elem_header header; __u64 zone_lba; };
	printf("offsetof(element(both).buf_addr) %zu\n", offsetof(struct both, buf_addr));
	printf("sizeof(element(both).buf_addr) %zu\n", sizeof(__u64));
	printf("offsetof(element(both).zone_lba) %zu\n", offsetof(struct both, zone_lba));
	printf("sizeof(element(both).zone_lba) %zu\n", sizeof(__u64));
	printf("offsetof(element(zone_lba).zone_lba) %zu\n", offsetof(struct lba, zone_lba));
	printf("sizeof(element(zone_lba).zone_lba) %zu\n", sizeof(__u64));
#endif
}

static void params(void)
{
	SIZE(ublk_param_basic);
	OFFSET(ublk_params, basic);
	FIELD(ublk_params, basic.attrs);
	FIELD(ublk_params, basic.logical_bs_shift);
	FIELD(ublk_params, basic.physical_bs_shift);
	FIELD(ublk_params, basic.io_opt_shift);
	FIELD(ublk_params, basic.io_min_shift);
	FIELD(ublk_params, basic.max_sectors);
	FIELD(ublk_params, basic.chunk_sectors);
	FIELD(ublk_params, basic.dev_sectors);
	FIELD(ublk_params, basic.virt_boundary_mask);
	SIZE(ublk_param_discard);
	OFFSET(ublk_params, discard);
	FIELD(ublk_params, discard.discard_alignment);
	FIELD(ublk_params, discard.discard_granularity);
	FIELD(ublk_params, discard.max_discard_sectors);
	FIELD(ublk_params, discard.max_write_zeroes_sectors);
	FIELD(ublk_params, discard.max_discard_segments);
#ifdef UBLK_PARAM_TYPE_DEVT
	SIZE(ublk_param_devt);
	OFFSET(ublk_params, devt);
	FIELD(ublk_params, devt.char_major);
	FIELD(ublk_params, devt.char_minor);
	FIELD(ublk_params, devt.disk_major);
	FIELD(ublk_params, devt.disk_minor);
#endif
#ifdef UBLK_PARAM_TYPE_ZONED
	SIZE(ublk_param_zoned);
	OFFSET(ublk_params, zoned);
	FIELD(ublk_params, zoned.max_open_zones);
	FIELD(ublk_params, zoned.max_active_zones);
	FIELD(ublk_params, zoned.max_zone_append_sectors);
#endif
#ifdef UBLK_PARAM_TYPE_DMA_ALIGN
	SIZE(ublk_param_dma_align);
	OFFSET(ublk_params, dma);
	FIELD(ublk_params, dma.alignment);
#endif
#ifdef UBLK_PARAM_TYPE_SEGMENT
	SIZE(ublk_param_segment);
	OFFSET(ublk_params, seg);
	FIELD(ublk_params, seg.seg_boundary_mask);
	FIELD(ublk_params, seg.max_segment_size);
	FIELD(ublk_params, seg.max_segments);
#endif
#ifdef UBLK_PARAM_TYPE_INTEGRITY
	SIZE(ublk_param_integrity);
	OFFSET(ublk_params, integrity);
	FIELD(ublk_params, integrity.flags);
	FIELD(ublk_params, integrity.max_integrity_segments);
	FIELD(ublk_params, integrity.interval_exp);
	FIELD(ublk_params, integrity.metadata_size);
	FIELD(ublk_params, integrity.pi_offset);
	FIELD(ublk_params, integrity.csum_type);
	FIELD(ublk_params, integrity.tag_size);
	/* Up to the last part that we know: a newer header may append another. */
	printf("sizeof(ublk_params) %zu\n",
	       offsetof(struct ublk_params, integrity) + sizeof(struct ublk_param_integrity));
#endif
}

static void encodings(void)
{
#ifdef UBLK_QID_OFF
#define POSITION(q, tag, byte) printf("position(" #q "," #tag "," #byte ") %llu\n", \
	UBLKSRV_IO_BUF_OFFSET + ((unsigned long long)(q) << UBLK_QID_OFF) \
	+ ((unsigned long long)(tag) << UBLK_TAG_OFF) + (byte))
	POSITION(1, 2, 3);
	POSITION(4095, 65535, 33554431);
#endif
#ifdef UBLK_AUTO_BUF_REG_FALLBACK
#define AUTO_BUF_REG(at, how) do { \
	struct ublk_auto_buf_reg reg = { .index = at, .flags = how ? UBLK_AUTO_BUF_REG_FALLBACK : 0 }; \
	printf("auto_buf_reg(" #at "," #how ") %llu\n", (unsigned long long)ublk_auto_buf_reg_to_sqe_addr(&reg)); \
} while (0)
	AUTO_BUF_REG(65535, 0);
	AUTO_BUF_REG(4660, 1);
#endif
#ifdef UBLK_SHMEM_ZC_IDX_OFF
#define SHMEM(index, offset) printf("shmem_zc_addr(" #index "," #offset ") %llu\n", \
	(unsigned long long)ublk_shmem_zc_addr(index, offset))
	SHMEM(65535, 0);
	SHMEM(4660, 4294967295);
#endif
}

static void submission_entry(void)
{
	SIZE(io_uring_sqe);
	OFFSET(io_uring_sqe, opcode);
	OFFSET(io_uring_sqe, flags);
	OFFSET(io_uring_sqe, fd);
	OFFSET(io_uring_sqe, addr);
	OFFSET(io_uring_sqe, user_data);
	OFFSET(io_uring_sqe, buf_index);
	/* The opcodes are no macros. */
#ifdef IORING_SETUP_SQE128
	NUMBER(IORING_OP_URING_CMD);
	OFFSET(io_uring_sqe, cmd_op);
	OFFSET(io_uring_sqe, __pad1);
	OFFSET(io_uring_sqe, cmd);
#endif
#ifdef IORING_URING_CMD_FIXED
	OFFSET(io_uring_sqe, uring_cmd_flags);
#endif
#ifdef IORING_SETUP_SQE_MIXED
	NUMBER(IORING_OP_URING_CMD128);
#endif
}

int main(void)
{
@NUMBERS@
	control();
	io();
	params();
	encodings();
	submission_entry();
	return 0;
}
