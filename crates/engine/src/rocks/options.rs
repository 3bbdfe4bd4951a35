//! How RocksDB is set up (STORAGE §1, §6, §7).

use std::thread;

use rocksdb::{
    BlockBasedOptions, Cache, ChecksumType, DBCompressionType, DBRecoveryMode, Env, LogLevel,
    Options, SliceTransform, WriteBufferManager,
};

use crate::{Error, Family};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Levels of a column family.
const LEVELS: i32 = 7;

/// Bytes of a `log` key that name its region; filters are built over them.
pub(super) const LOG_PREFIX_BYTES: usize = 8;

/// Settings of a `RocksEngine`. What is not here follows from STORAGE and is not meant to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// Bytes of the block cache, shared by both families. Default 256 MiB. Small ones read the disk (or the file cache
    /// of the operating system) for most gets; beyond half the memory of the machine it takes what that cache needs.
    pub cache_bytes: usize,
    /// Bytes of one memtable of `state`; that of `log` is twice as large, so that the flush of `state` comes first and
    /// most log entries are compacted before they are flushed. Default 64 MiB. Small ones make many small files and
    /// more compaction; large ones replay longer after a crash.
    pub memtable_bytes: usize,
    /// Bytes of all memtables together; a flush starts when they are close to it. Default 384 MiB. Below three memtables
    /// of `state` it, and not `memtable_bytes`, decides when to flush.
    pub memtable_bytes_max: usize,
    /// Bytes of write-ahead log after which families that still need its oldest part are flushed. Default 512 MiB.
    /// This bounds the replay after a crash; small ones flush often.
    pub log_bytes_max: u64,
    /// Threads for flush and compaction. Default: one per core, at least 2. One thread could not flush while it
    /// compacts; more than cores compete with the foreground.
    pub background_jobs: usize,
    /// Files that may be open. Default -1: all stay open, which is fastest and checks the head of every file when the
    /// engine opens. A limit closes and opens them again while reading.
    pub open_files_max: i32,
    /// The key of `state` from which on a damaged file may be left out, what it held being lost (STORAGE §9). Default none: the
    /// engine does not open any more once compaction met a damaged file.
    pub losable_from: Option<&'static [u8]>,
}

impl Default for RocksOptions {
    fn default() -> RocksOptions {
        RocksOptions {
            cache_bytes: 256 * MIB,
            memtable_bytes: 64 * MIB,
            memtable_bytes_max: 384 * MIB,
            log_bytes_max: 512 * MIB as u64,
            background_jobs: thread::available_parallelism().map_or(2, |cores| cores.get().max(2)),
            open_files_max: -1,
            losable_from: None,
        }
    }
}

/// The settings as RocksDB takes them, with what families share.
pub(super) struct Prepared {
    pub(super) database: Options,
    /// In the order of [`Family`].
    pub(super) families: [Options; 2],
    /// Of the unused `default` family, which RocksDB insists on.
    pub(super) unused: Options,
    pub(super) cache: Cache,
}

impl Prepared {
    /// `env` is what files are reached by, if not the operating system.
    pub(super) fn new(options: &RocksOptions, env: Option<&Env>) -> Result<Prepared, Error> {
        let cache = Cache::new_hyper_clock_cache(options.cache_bytes, 0);
        let mut unused = Options::default();
        unused.set_write_buffer_size(64 * KIB);
        let mut database = database(options)?;
        if let Some(env) = env {
            database.set_env(env);
        }
        Ok(Prepared {
            database,
            families: [log(options, &cache), state(options, &cache)],
            unused,
            cache,
        })
    }

    pub(super) fn family(&self, family: Family) -> &Options {
        &self.families[family as usize]
    }
}

fn database(options: &RocksOptions) -> Result<Options, Error> {
    // Checksums of whole files are kept in the manifest; the binding has no call for it.
    let mut database = Options::default()
        .get_options_from_string("file_checksum_gen_factory=FileChecksumGenCrc32cFactory")
        .map_err(|source| Error::io("set up RocksDB", source))?;
    let jobs = i32::try_from(options.background_jobs.max(2)).unwrap_or(i32::MAX);

    // R15: an incomplete end of the log is cut, anything else is damage. Never point-in-time, which calls damage in the
    // middle an end.
    database.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    database.set_track_and_verify_wals_in_manifest(true);
    // Recycled files would hold old records behind the new end.
    database.set_recycle_log_file_num(0);
    database.set_paranoid_checks(true);
    // A failed read of a mapping kills the process with a signal instead of an error.
    database.set_allow_mmap_reads(false);
    database.set_allow_mmap_writes(false);

    database.set_enable_pipelined_write(true);
    database.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(
        options.memtable_bytes_max,
        false,
    ));
    database.set_max_total_wal_size(options.log_bytes_max);
    database.set_bytes_per_sync(MIB as u64);
    database.set_wal_bytes_per_sync(512 * KIB as u64);

    database.increase_parallelism(jobs);
    database.set_max_background_jobs(jobs);
    database.set_max_open_files(options.open_files_max);

    database.set_log_level(LogLevel::Info);
    database.set_max_log_file_size(16 * MIB);
    database.set_keep_log_file_num(4);
    database.set_stats_dump_period_sec(0);
    database.set_stats_persist_period_sec(0);
    Ok(database)
}

/// Options of blocks that both families share.
fn blocks(cache: &Cache) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(16 * KIB);
    blocks.set_checksum_type(ChecksumType::XXH3);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_optimize_filters_for_memory(true);
    // Indexes and filters count in the cache, so that memory has one limit.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks
}

/// Raft tier: written once, read rarely, mostly compacted before it is flushed.
fn log(options: &RocksOptions, cache: &Cache) -> Options {
    let mut log = Options::default();
    let mut blocks = blocks(cache);
    blocks.set_whole_key_filtering(false);
    log.set_block_based_table_factory(&blocks);
    log.set_prefix_extractor(SliceTransform::create_fixed_prefix(LOG_PREFIX_BYTES));

    log.set_write_buffer_size(options.memtable_bytes.saturating_mul(2));
    log.set_max_write_buffer_number(4);
    log.set_num_levels(LEVELS);
    log.set_level_compaction_dynamic_level_bytes(true);
    log.set_max_bytes_for_level_base(64 * MIB as u64);
    log.set_target_file_size_base(16 * MIB as u64);
    log.set_compression_type(DBCompressionType::None);
    log.set_bottommost_compression_type(DBCompressionType::Lz4);
    log
}

/// Apply tier: the data.
fn state(options: &RocksOptions, cache: &Cache) -> Options {
    let mut state = Options::default();
    let mut blocks = blocks(cache);
    blocks.set_whole_key_filtering(true);
    state.set_block_based_table_factory(&blocks);

    state.set_write_buffer_size(options.memtable_bytes);
    state.set_max_write_buffer_number(4);
    state.set_num_levels(LEVELS);
    state.set_level_compaction_dynamic_level_bytes(true);
    state.set_max_bytes_for_level_base(4 * options.memtable_bytes as u64);
    state.set_target_file_size_base(options.memtable_bytes as u64);
    use DBCompressionType::{Lz4, None};
    state.set_compression_per_level(&[None, None, Lz4, Lz4, Lz4, Lz4, Lz4]);
    state.set_bottommost_compression_type(DBCompressionType::Zstd);
    state
}

/// Of staged files. They travel between stores and are linked into the last level that fits, so they are compressed,
/// but cheaply: one sender serves many. The format is fixed here and not RocksDB's newest, because another store reads
/// it and `table.rs` reads its properties.
pub(super) fn staged(env: Option<&Env>) -> Options {
    let mut staged = Options::default();
    if let Some(env) = env {
        staged.set_env(env);
    }
    let mut blocks = BlockBasedOptions::default();
    blocks.disable_cache();
    blocks.set_block_size(16 * KIB);
    blocks.set_format_version(super::table::FORMAT_VERSION);
    blocks.set_checksum_type(ChecksumType::CRC32c);
    blocks.set_bloom_filter(10.0, false);
    staged.set_block_based_table_factory(&blocks);
    staged.set_compression_type(DBCompressionType::Lz4);
    staged
}
