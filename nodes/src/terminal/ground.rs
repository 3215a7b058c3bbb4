//! A terminal's folder.
//!
//! ```text
//! terminal.toml    name, host, grant; whoever runs the terminal may edit it
//! keys/node.key    32 secret bytes, hex; readable by the owner alone
//! copies/          the store of second copies
//! nodes.list       the machines of the office, as it last was shown them
//! unknown          frames that programs here kept and the host does not know
//! away             until when the host is away on purpose, while it is
//! terminal.sock    for programs on this machine
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use twinkeep_engine::copies::{CopiesError, CopyStore, OpenedCopies};
use twinkeep_engine::env::Env;
use twinkeep_engine::files::Files;
use twinkeep_engine::files::os::OsFiles;
use twinkeep_engine::kv::lmdb::LmdbHome;

/// The socket for programs on this machine.
pub fn socket(data: &Path) -> PathBuf {
    data.join("terminal.sock")
}

/// Opens a terminal's store of copies, and makes it where there is none.
pub fn copies(data: &Path, env: Env, owner: &str) -> Result<OpenedCopies, CopiesError> {
    let root = data.join("copies");
    let files = Arc::new(OsFiles::new(root.clone()));
    files.create_dir("")?;
    CopyStore::open(files, Arc::new(LmdbHome::new(root)), env, owner)
}
