/* Prints what the kernel's own header says: "name value" a line. What an older header lacks is left out. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/ublk_cmd.h>

#define NUMBER(name) printf("%s %llu\n", #name, (unsigned long long)(name))
#define SIZE(type) printf("sizeof(%s) %zu\n", #type, sizeof(struct type))
#define OFFSET(type, field) printf("%s.%s %zu\n", #type, #field, offsetof(struct type, field))

int main(void)
{
@NUMBERS@
	SIZE(ublksrv_ctrl_cmd);
	OFFSET(ublksrv_ctrl_cmd, dev_id);
	OFFSET(ublksrv_ctrl_cmd, queue_id);
	OFFSET(ublksrv_ctrl_cmd, len);
	OFFSET(ublksrv_ctrl_cmd, addr);
	OFFSET(ublksrv_ctrl_cmd, data);
#ifdef UBLK_U_CMD_GET_DEV_INFO2
	OFFSET(ublksrv_ctrl_cmd, dev_path_len);
#endif
	SIZE(ublksrv_ctrl_dev_info);
	OFFSET(ublksrv_ctrl_dev_info, nr_hw_queues);
	OFFSET(ublksrv_ctrl_dev_info, queue_depth);
	OFFSET(ublksrv_ctrl_dev_info, state);
#ifdef UBLK_F_IO_DESC_SIZE
	OFFSET(ublksrv_ctrl_dev_info, io_desc_size);
#endif
	OFFSET(ublksrv_ctrl_dev_info, max_io_buf_bytes);
	OFFSET(ublksrv_ctrl_dev_info, dev_id);
	OFFSET(ublksrv_ctrl_dev_info, ublksrv_pid);
	OFFSET(ublksrv_ctrl_dev_info, flags);
	OFFSET(ublksrv_ctrl_dev_info, ublksrv_flags);
#ifdef UBLK_U_CMD_GET_DEV_INFO2
	OFFSET(ublksrv_ctrl_dev_info, owner_uid);
	OFFSET(ublksrv_ctrl_dev_info, owner_gid);
#endif
	SIZE(ublksrv_io_desc);
	OFFSET(ublksrv_io_desc, op_flags);
	OFFSET(ublksrv_io_desc, nr_sectors);
	OFFSET(ublksrv_io_desc, start_sector);
	OFFSET(ublksrv_io_desc, addr);
	SIZE(ublksrv_io_cmd);
	OFFSET(ublksrv_io_cmd, q_id);
	OFFSET(ublksrv_io_cmd, tag);
	OFFSET(ublksrv_io_cmd, result);
	OFFSET(ublksrv_io_cmd, addr);
	SIZE(ublk_param_basic);
	OFFSET(ublk_param_basic, attrs);
	OFFSET(ublk_param_basic, logical_bs_shift);
	OFFSET(ublk_param_basic, physical_bs_shift);
	OFFSET(ublk_param_basic, io_opt_shift);
	OFFSET(ublk_param_basic, io_min_shift);
	OFFSET(ublk_param_basic, max_sectors);
	OFFSET(ublk_param_basic, chunk_sectors);
	OFFSET(ublk_param_basic, dev_sectors);
	OFFSET(ublk_param_basic, virt_boundary_mask);
	SIZE(ublk_param_discard);
	OFFSET(ublk_param_discard, discard_granularity);
	OFFSET(ublk_param_discard, max_discard_sectors);
	OFFSET(ublk_param_discard, max_write_zeroes_sectors);
	OFFSET(ublk_param_discard, max_discard_segments);
	OFFSET(ublk_params, len);
	OFFSET(ublk_params, types);
	OFFSET(ublk_params, basic);
	OFFSET(ublk_params, discard);
#ifdef UBLK_PARAM_TYPE_DEVT
	SIZE(ublk_param_devt);
	OFFSET(ublk_params, devt);
#endif
#ifdef UBLK_PARAM_TYPE_ZONED
	SIZE(ublk_param_zoned);
	OFFSET(ublk_param_zoned, max_zone_append_sectors);
	OFFSET(ublk_params, zoned);
#endif
#ifdef UBLK_PARAM_TYPE_DMA_ALIGN
	SIZE(ublk_param_dma_align);
	OFFSET(ublk_params, dma);
#endif
#ifdef UBLK_PARAM_TYPE_SEGMENT
	SIZE(ublk_param_segment);
	OFFSET(ublk_param_segment, max_segment_size);
	OFFSET(ublk_param_segment, max_segments);
	OFFSET(ublk_params, seg);
#endif
#ifdef UBLK_PARAM_TYPE_INTEGRITY
	SIZE(ublk_param_integrity);
	OFFSET(ublk_param_integrity, max_integrity_segments);
	OFFSET(ublk_param_integrity, interval_exp);
	OFFSET(ublk_param_integrity, metadata_size);
	OFFSET(ublk_param_integrity, pi_offset);
	OFFSET(ublk_param_integrity, csum_type);
	OFFSET(ublk_param_integrity, tag_size);
	OFFSET(ublk_params, integrity);
	SIZE(ublk_params);
#endif
#ifdef UBLK_F_BATCH_IO
	SIZE(ublk_batch_io);
	OFFSET(ublk_batch_io, q_id);
	OFFSET(ublk_batch_io, flags);
	OFFSET(ublk_batch_io, nr_elem);
	OFFSET(ublk_batch_io, elem_bytes);
#endif
#ifdef UBLK_F_SHMEM_ZC
	SIZE(ublk_shmem_buf_reg);
	OFFSET(ublk_shmem_buf_reg, addr);
	OFFSET(ublk_shmem_buf_reg, len);
	OFFSET(ublk_shmem_buf_reg, flags);
#endif
	return 0;
}
