//! One entry of a tree as a line or a JSON message; the same for every verb that lists.

use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use twinkeep_engine::branch::entry::{Entry, What};

use crate::screen::{Screen, put_path};
use crate::show;

/// The fields of a `node` message.
pub fn fields(path: &[u8], entry: &Entry) -> Map<String, Value> {
    let mut fields = Map::new();
    put_path(&mut fields, "path", path);
    let meta = &entry.meta;
    fields.insert("type".into(), show::kind_word(&entry.what).into());
    fields.insert("mode".into(), meta.mode.into());
    fields.insert("permissions".into(), show::mode(entry).into());
    fields.insert("uid".into(), meta.user.id.into());
    fields.insert("gid".into(), meta.group.id.into());
    fields.insert("user".into(), String::from_utf8_lossy(&meta.user.name).into());
    fields.insert("group".into(), String::from_utf8_lossy(&meta.group.name).into());
    fields.insert("mtime".into(), show::json_file_time(meta.mtime).into());
    if let Some(atime) = meta.atime {
        fields.insert("atime".into(), show::json_file_time(atime).into());
    }
    match &entry.what {
        What::File(content) => drop(fields.insert("size".into(), content.len().into())),
        What::Symlink(target) => put_path(&mut fields, "target", target),
        What::CharDevice { major, minor } | What::BlockDevice { major, minor } => {
            fields.insert("major".into(), (*major).into());
            fields.insert("minor".into(), (*minor).into());
        }
        What::Directory(_) | What::Fifo | What::Socket => {}
    }
    fields
}

/// The line of a list: the path, and before it what `ls -l` tells when `long`.
pub fn line(screen: &Screen, path: &[u8], entry: &Entry, long: bool, zone: &TimeZone) -> Vec<u8> {
    let mut line = Vec::new();
    if long {
        let meta = &entry.meta;
        let size = match &entry.what {
            What::CharDevice { major, minor } | What::BlockDevice { major, minor } => format!("{major}, {minor}"),
            _ => show::len(entry).to_string(),
        };
        let (user, group) = (show::owner(&meta.user), show::owner(&meta.group));
        let time = show::local_file_time(meta.mtime, zone);
        line.extend_from_slice(format!("{} {user:<8} {group:<8} {size:>12} {time} ", show::mode(entry)).as_bytes());
    }
    line.extend_from_slice(&screen.name(path));
    if let (true, What::Symlink(target)) = (long, &entry.what) {
        line.extend_from_slice(b" -> ");
        line.extend_from_slice(&screen.name(target));
    }
    line.push(b'\n');
    line
}
