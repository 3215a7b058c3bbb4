//! The index on disk: LMDB in `<vault>/index/`.
//!
//! It is made aside in `index.new` and renamed into place when durable, because LMDB may leave a file nobody can open
//! when power fails while it creates one. What stood there becomes `index.broken-N`. One process opens one environment
//! once: a process-wide table of what is open sees to it. LMDB trusts its file, and a damaged one can kill the process,
//! so [`KvHome::open`] looks at the pages first.

use super::lmdb_pages::{Extent, Meta, metas, verify_pages};
use super::{Kv, KvError, KvHome, Read, Result, Table, Visit, Write, check_key};
use crate::files::os::{private_dir_mode, sync_folder};
use heed::types::Bytes;
use heed::{CommitOrAbort, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags, RoTxn, RwTxn, WithoutTls};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Address space reserved for the map: never reached, so the map never has to grow while in use.
#[cfg(not(windows))]
const MAP_LEN: usize = 1 << 40;
/// Windows commits the whole map at once.
#[cfg(windows)]
const MAP_LEN: usize = 64 << 30;

/// Read transactions at once, over all processes. A slot costs 64 bytes of the lock file.
const READERS_MAX: u32 = 510;

/// An index up to this many bytes is verified page by page at every open: some tens of milliseconds at most.
pub const VERIFY_AT_OPEN_LEN_MAX: u64 = 64 << 20;

/// How long to wait until an environment that was just let go of is closed.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// Broken indexes kept beside each other before `replace` refuses.
const BROKEN_MAX: u32 = 10_000;

type Db = heed::Database<'static, Bytes, Bytes>;

/// What this process has open, by canonical path of the environment's folder.
static OPEN: Mutex<Option<HashMap<PathBuf, Weak<LmdbKv>>>> = Mutex::new(None);

/// The place of a vault's index.
#[derive(Clone, Debug)]
pub struct LmdbHome {
    vault: PathBuf,
}

impl LmdbHome {
    /// The index of the vault in `vault_dir`.
    pub fn new(vault_dir: PathBuf) -> Self {
        Self { vault: vault_dir }
    }

    fn folder(&self) -> PathBuf {
        self.vault.join("index")
    }
}

impl KvHome for LmdbHome {
    fn open(&self) -> Result<Option<Arc<dyn Kv>>> {
        let mut open = opened();
        let open = open.get_or_insert_default();
        let folder = match self.folder().canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io_error)?,
        };
        if let Some(kv) = open.get(&folder).and_then(Weak::upgrade) {
            kv.expect_in_place()?;
            return Ok(Some(kv));
        }
        let kv = Arc::new(LmdbKv::open(&folder)?);
        open.insert(folder, Arc::downgrade(&kv));
        Ok(Some(kv))
    }

    fn replace(&self, fill: &mut dyn FnMut(&dyn Kv) -> Result<()>) -> Result<Arc<dyn Kv>> {
        let aside = self.vault.join("index.new");
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
            _ => {}
        }
        self.expect_closed()?;
        make_aside(&aside, fill)?;
        let mut open = opened();
        let open = open.get_or_insert_default();
        let folder = self.put_in_place(open, &aside)?;
        let kv = Arc::new(LmdbKv::open(&folder)?);
        open.insert(folder, Arc::downgrade(&kv));
        Ok(kv)
    }
}

impl LmdbHome {
    /// Before the long work, so that a caller who still holds the old index learns it at once.
    fn expect_closed(&self) -> Result<()> {
        let open = opened();
        let Ok(folder) = self.folder().canonicalize() else { return Ok(()) };
        match open.as_ref().and_then(|open| open.get(&folder)).and_then(Weak::upgrade) {
            Some(_) => Err(KvError::Io("the index to be replaced is still in use".to_owned())),
            None => Ok(()),
        }
    }

    fn put_in_place(&self, open: &mut HashMap<PathBuf, Weak<LmdbKv>>, aside: &Path) -> Result<PathBuf> {
        let folder = self.folder();
        if let Ok(canonical) = folder.canonicalize() {
            if open.get(&canonical).and_then(Weak::upgrade).is_some() {
                return Err(KvError::Io("the index to be replaced is still in use".to_owned()));
            }
            wait_closed(&canonical)?;
            open.remove(&canonical);
        }
        if folder.symlink_metadata().is_ok() {
            fs::rename(&folder, self.free_broken_name()?).map_err(io_error)?;
        }
        fs::rename(aside, &folder).map_err(io_error)?;
        sync_folder(&self.vault).map_err(io_error)?;
        folder.canonicalize().map_err(io_error)
    }

    fn free_broken_name(&self) -> Result<PathBuf> {
        (1..=BROKEN_MAX)
            .map(|n| self.vault.join(format!("index.broken-{n}")))
            .find(|path| path.symlink_metadata().is_err())
            .ok_or_else(|| KvError::Io(format!("{BROKEN_MAX} broken indexes are kept already")))
    }
}

/// Makes a filled, durable environment in the folder `aside`, closed again when this returns.
fn make_aside(aside: &Path, fill: &mut dyn FnMut(&dyn Kv) -> Result<()>) -> Result<()> {
    let mut builder = DirBuilder::new();
    private_dir_mode(&mut builder);
    builder.create(aside).map_err(io_error)?;
    let aside = aside.canonicalize().map_err(io_error)?;
    // Nobody sees this file before it is synced as a whole, so its commits need not be.
    let env = open_env(&aside, EnvFlags::NO_SYNC)?;
    let kv = LmdbKv::create(env, &aside)?;
    fill(&kv)?;
    kv.env.force_sync().map_err(heed_error)?;
    drop(kv);
    wait_closed(&aside)?;
    File::open(aside.join("data.mdb")).and_then(|file| file.sync_all()).map_err(io_error)?;
    fs::remove_file(aside.join("lock.mdb")).map_err(io_error)?;
    sync_folder(&aside).map_err(io_error)
}

fn opened() -> MutexGuard<'static, Option<HashMap<PathBuf, Weak<LmdbKv>>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the last handle, perhaps being dropped by another thread right now, has closed the environment.
fn wait_closed(folder: &Path) -> Result<()> {
    match heed::env_closing_event(folder) {
        Some(event) if !event.wait_timeout(CLOSE_WAIT) => {
            Err(KvError::Io("the index is still being closed".to_owned()))
        }
        _ => Ok(()),
    }
}

fn open_env(folder: &Path, flags: EnvFlags) -> Result<Env<WithoutTls>> {
    wait_closed(folder)?;
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(MAP_LEN).max_readers(READERS_MAX).max_dbs(Table::ALL.len() as u32);
    // SAFETY: NO_SYNC is passed for a file that nobody else sees and that is synced afterwards; NO_LOCK only together
    // with READ_ONLY where we may not write: should somebody who may do so meanwhile, a read can meet a page that was
    // used again, which is no worse than a damaged one, and content is believed only by its names.
    // The map stays valid while open: every opener is this code, which never truncates the file, opens it once per
    // process and has looked at its pages before.
    unsafe { options.flags(flags).open(folder) }.map_err(heed_error)
}

/// An open index.
pub struct LmdbKv {
    env: Env<WithoutTls>,
    dbs: [Db; Table::ALL.len()],
    data: PathBuf,
    identity: Identity,
}

type Identity = (u64, u64);

impl LmdbKv {
    pub(super) fn create(env: Env<WithoutTls>, folder: &Path) -> Result<Self> {
        let write = env.write_txn().map_err(heed_error)?;
        let made = env.create_databases_and_commit(write, |opener, write| {
            let mut dbs = Vec::new();
            for table in Table::ALL {
                dbs.push(opener.database_options().types::<Bytes, Bytes>().name(table.name()).create(write)?);
            }
            match <[_; Table::ALL.len()]>::try_from(dbs) {
                Ok(dbs) => Ok::<_, heed::Error>(CommitOrAbort::Commit(dbs)),
                Err(_) => Ok(CommitOrAbort::Abort(())),
            }
        });
        let dbs = made.map_err(heed_error)?.commit();
        let dbs = dbs.ok_or_else(|| KvError::Io("the tables cannot be made".to_owned()))?;
        Self::of(env, dbs, folder)
    }

    fn open(folder: &Path) -> Result<Self> {
        let data = folder.join("data.mdb");
        let extent = probe(&data)?;
        let env = match open_env(folder, EnvFlags::empty()) {
            // A vault that may only be read, on a read-only medium or of somebody else.
            Err(KvError::NotAllowed(_)) => open_env(folder, EnvFlags::READ_ONLY | EnvFlags::NO_LOCK)?,
            other => other?,
        };
        verify_snapshot(&env, &data, extent)?;
        // Readers that were killed would keep old pages from being used again.
        env.clear_stale_readers().map_err(heed_error)?;
        let read = env.read_txn().map_err(heed_error)?;
        let found = env.open_databases_and_commit(read, |opener, read| {
            let mut dbs = Vec::new();
            for table in Table::ALL {
                match opener.database_options().types::<Bytes, Bytes>().name(table.name()).open(read)? {
                    Some(db) => dbs.push(db),
                    None => return Ok(CommitOrAbort::Abort(table)),
                }
            }
            match <[_; Table::ALL.len()]>::try_from(dbs) {
                Ok(dbs) => Ok::<_, heed::Error>(CommitOrAbort::Commit(dbs)),
                Err(_) => Ok(CommitOrAbort::Abort(Table::Meta)),
            }
        });
        match found.map_err(heed_error)? {
            CommitOrAbort::Commit(dbs) => Self::of(env, dbs, folder),
            CommitOrAbort::Abort(table) => Err(KvError::Damaged(format!("it has no table {}", table.name()))),
        }
    }

    fn of(env: Env<WithoutTls>, dbs: [Db; Table::ALL.len()], folder: &Path) -> Result<Self> {
        let data = folder.join("data.mdb");
        let ours = env.try_clone_inner_file().map_err(heed_error)?;
        let identity = identity(&ours.metadata().map_err(io_error)?);
        let kv = Self { env, dbs, data, identity };
        kv.expect_in_place()?;
        Ok(kv)
    }

    /// Another process may have replaced the index: what is open here then is a file without a name.
    fn expect_in_place(&self) -> Result<()> {
        match fs::metadata(&self.data) {
            Ok(metadata) if identity(&metadata) == self.identity => Ok(()),
            Ok(_) => Err(KvError::Io("the index was replaced while it was open".to_owned())),
            Err(error) => Err(io_error(error)),
        }
    }
}

#[cfg(unix)]
fn identity(metadata: &fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &fs::Metadata) -> Identity {
    // An open file cannot be renamed away here.
    (0, 0)
}

/// Looks at both meta pages: cheap, and enough for LMDB to open the file without harm. Tells how much
/// is to be verified before it reads more.
fn probe(data: &Path) -> Result<Extent> {
    let file = match File::open(data) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(KvError::Damaged("it has no data file".to_owned()));
        }
        other => other.map_err(io_error)?,
    };
    let metas = metas_calm(&file)?;
    let len = file.metadata().map_err(io_error)?.len();
    // LMDB need not write last pages that were freed again at once, so a short file is not wrong in itself.
    let is_short = metas.iter().any(|meta| len < meta.pages().saturating_mul(meta.page_len as u64));
    let is_all = is_short || len <= VERIFY_AT_OPEN_LEN_MAX;
    Ok(if is_all { Extent::Everything } else { Extent::Roots })
}

/// Reads the meta pages; another process may just be writing one, so what looks wrong is looked at again.
fn metas_calm(file: &File) -> Result<[Meta; 2]> {
    let mut tries = 0;
    loop {
        match metas(file) {
            Err(KvError::Damaged(_)) if tries < 3 => std::thread::sleep(Duration::from_millis(2)),
            other => return other,
        }
        tries += 1;
    }
}

/// Verifies the newest state of an index file nobody writes to, page by page, without LMDB. Of an open index use
/// [`Kv::verify`].
///
/// Reads every page in use once: about a second per gigabyte from the page cache, else as fast as the disk gives
/// random 4 KiB reads. `open` does it by itself up to [`VERIFY_AT_OPEN_LEN_MAX`].
///
/// # Errors
/// [`KvError::Damaged`] names the first page that is wrong.
pub fn verify(data_file: &Path) -> Result<()> {
    let file = File::open(data_file).map_err(io_error)?;
    let [a, b] = metas(&file)?;
    verify_pages(&file, if a.txn >= b.txn { &a } else { &b }, Extent::Everything)
}

/// Verifies while others may write, this process among them: a read transaction keeps the pages of its state from being used again.
fn verify_snapshot(env: &Env<WithoutTls>, data: &Path, extent: Extent) -> Result<()> {
    let file = File::open(data).map_err(io_error)?;
    // Two commits between the two lines below hide the state we hold; not a hundred times in a row.
    for _ in 0..100 {
        let read = env.read_txn().map_err(heed_error)?;
        let pair = metas_calm(&file)?;
        if let Some(meta) = pair.iter().find(|meta| meta.txn == read.id() as u64) {
            return verify_pages(&file, meta, extent);
        }
    }
    Err(KvError::Damaged("no meta page holds the state LMDB reads".to_owned()))
}

impl Kv for LmdbKv {
    fn read(&self) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(LmdbRead { txn: self.env.read_txn().map_err(heed_error)?, kv: self }))
    }

    fn write(&self) -> Result<Box<dyn Write + '_>> {
        let txn = self.env.write_txn().map_err(heed_error)?;
        self.expect_in_place()?;
        Ok(Box::new(LmdbWrite { txn, kv: self, greatest: Default::default(), failed: None }))
    }

    fn verify(&self) -> Result<()> {
        verify_snapshot(&self.env, &self.data, Extent::Everything)
    }
}

struct LmdbRead<'a> {
    txn: RoTxn<'a, WithoutTls>,
    kv: &'a LmdbKv,
}

struct LmdbWrite<'a> {
    txn: RwTxn<'a>,
    kv: &'a LmdbKv,
    greatest: [Greatest; Table::ALL.len()],
    /// The first change that failed: LMDB refuses the commit after it, and would not say why.
    failed: Option<KvError>,
}

/// The greatest key of a table, as far as this transaction knows it.
#[derive(Default)]
enum Greatest {
    #[default]
    Unknown,
    /// Empty when the table is.
    Known(Vec<u8>),
}

/// Reads of both kinds of transaction.
macro_rules! lmdb_reads {
    ($type:ty) => {
        impl Read for $type {
            fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
                if check_key(key).is_err() {
                    return Ok(None);
                }
                self.kv.dbs[table as usize].get(&self.txn, key).map_err(heed_error)
            }

            fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
                let db = &self.kv.dbs[table as usize];
                // LMDB knows no empty key; one too long for it sorts like its beginning and one byte more would.
                let from = &from[..from.len().min(super::KEY_LEN_MAX + 1)];
                let start = if from.is_empty() { Bound::Unbounded } else { Bound::Included(from) };
                for row in db.range(&self.txn, &(start, Bound::Unbounded)).map_err(heed_error)? {
                    let (key, value) = row.map_err(heed_error)?;
                    if visit(key, value).is_break() {
                        break;
                    }
                }
                Ok(())
            }

            fn count(&self, table: Table) -> Result<u64> {
                self.kv.dbs[table as usize].len(&self.txn).map_err(heed_error)
            }

            fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>> {
                self.kv.dbs[table as usize].last(&self.txn).map_err(heed_error)
            }
        }
    };
}

lmdb_reads!(LmdbRead<'_>);
lmdb_reads!(LmdbWrite<'_>);

impl Write for LmdbWrite<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        check_key(key)?;
        let result = self.try_put(table, key, value);
        self.remember(result)
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        if check_key(key).is_err() {
            return Ok(false);
        }
        if matches!(&self.greatest[table as usize], Greatest::Known(greatest) if greatest == key) {
            self.greatest[table as usize] = Greatest::Unknown;
        }
        let result = self.kv.dbs[table as usize].delete(&mut self.txn, key).map_err(heed_error);
        self.remember(result)
    }

    fn commit(self: Box<Self>) -> Result<()> {
        match self.failed {
            Some(error) => Err(error),
            None => self.txn.commit().map_err(heed_error),
        }
    }
}

impl LmdbWrite<'_> {
    fn try_put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        let db = &self.kv.dbs[table as usize];
        let greatest = &mut self.greatest[table as usize];
        if matches!(greatest, Greatest::Unknown) {
            let last = db.last(&self.txn).map_err(heed_error)?;
            *greatest = Greatest::Known(last.map_or(Vec::new(), |(key, _)| key.to_vec()));
        }
        if let Greatest::Known(greatest) = greatest
            && key > greatest.as_slice()
        {
            // At the end LMDB needs no search, and fills pages to the brim.
            db.put_with_flags(&mut self.txn, PutFlags::APPEND, key, value).map_err(heed_error)?;
            greatest.clear();
            greatest.extend_from_slice(key);
            return Ok(());
        }
        db.put(&mut self.txn, key, value).map_err(heed_error)
    }

    fn remember<T>(&mut self, result: Result<T>) -> Result<T> {
        if let (Err(error), None) = (&result, &self.failed) {
            self.failed = Some(match error {
                KvError::Damaged(why) => KvError::Damaged(why.clone()),
                KvError::NoSpace => KvError::NoSpace,
                KvError::NotAllowed(why) => KvError::NotAllowed(why.clone()),
                KvError::Io(why) => KvError::Io(why.clone()),
            });
        }
        result
    }
}

pub(super) fn io_error(error: io::Error) -> KvError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => KvError::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => KvError::NotAllowed(error.to_string()),
        _ => KvError::Io(error.to_string()),
    }
}

fn heed_error(error: heed::Error) -> KvError {
    match error {
        heed::Error::Io(error) => io_error(error),
        heed::Error::Mdb(MdbError::MapFull) => KvError::NoSpace,
        heed::Error::Mdb(
            error @ (MdbError::PageNotFound
            | MdbError::Corrupted
            | MdbError::VersionMismatch
            | MdbError::Invalid
            | MdbError::Incompatible
            | MdbError::Problem
            | MdbError::CursorFull
            | MdbError::PageFull),
        ) => KvError::Damaged(error.to_string()),
        other => KvError::Io(other.to_string()),
    }
}
