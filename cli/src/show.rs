//! How values look to people: sizes, times, modes, names. Pure.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use twinkeep_engine::branch::entry::{Entry, FileTime, Owner, What};
use twinkeep_engine::env::Time;
use twinkeep_engine::id::ChunkId;

/// Hex digits of a snapshot's id that people see and type.
pub const SHORT_ID_LEN: usize = 8;

/// The first digits of a snapshot's id.
pub fn short(id: &ChunkId) -> String {
    let mut hex = id.to_hex();
    hex.truncate(SHORT_ID_LEN);
    hex
}

/// `1.2 GiB`; exact below 1 KiB.
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = ["KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if value < 999.95 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.1} {unit}")
}

/// `0.3 s`, `12 s`, `4:05 min`, `2:03:04 h`.
pub fn duration(time: std::time::Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{secs} s"),
        60..3600 => format!("{}:{:02} min", secs / 60, secs % 60),
        _ => format!("{}:{:02}:{:02} h", secs / 3600, secs / 60 % 60, secs % 60),
    }
}

/// The engine's wall-clock time.
pub fn timestamp(time: Time) -> Timestamp {
    // Nanoseconds in 64 bits reach from 1677 to 2262, well inside the calendar.
    Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A file's time; `None` outside the calendar.
pub fn file_timestamp(time: FileTime) -> Option<Timestamp> {
    let nanos = i32::try_from(time.nanos).ok()?;
    // Jiff wants both parts with one sign; a time before 1970 has a positive fraction here.
    let total = i128::from(time.secs) * 1_000_000_000 + i128::from(nanos);
    Timestamp::from_nanosecond(total).ok()
}

/// `2026-11-22 19:27:14` in a time zone.
pub fn local(time: Timestamp, zone: &TimeZone) -> String {
    Zoned::new(time, zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A file's time in a time zone, or its seconds where no calendar reaches.
pub fn local_file_time(time: FileTime, zone: &TimeZone) -> String {
    file_timestamp(time).map_or_else(|| format!("@{}", time.secs), |time| local(time, zone))
}

/// A file's time for `--json`: RFC 3339 with nanoseconds.
pub fn json_file_time(time: FileTime) -> Option<String> {
    file_timestamp(time).map(|time| time.to_string())
}

/// `drwxr-xr-x`, as `ls` writes it.
pub fn mode(entry: &Entry) -> String {
    let bits = entry.meta.mode;
    let mut text = String::with_capacity(10);
    text.push(kind_letter(&entry.what));
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let part = bits >> shift;
        text.push(if part & 4 != 0 { 'r' } else { '-' });
        text.push(if part & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & special != 0, part & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// The letter `ls` puts before the permissions.
pub fn kind_letter(what: &What) -> char {
    match what {
        What::File(_) => '-',
        What::Directory(_) => 'd',
        What::Symlink(_) => 'l',
        What::CharDevice { .. } => 'c',
        What::BlockDevice { .. } => 'b',
        What::Fifo => 'p',
        What::Socket => 's',
    }
}

/// The word `--json` has for it.
pub fn kind_word(what: &What) -> &'static str {
    match what {
        What::File(_) => "file",
        What::Directory(_) => "dir",
        What::Symlink(_) => "symlink",
        What::CharDevice { .. } => "chardev",
        What::BlockDevice { .. } => "dev",
        What::Fifo => "fifo",
        What::Socket => "socket",
    }
}

/// Length of a regular file.
pub fn file_len(entry: &Entry) -> Option<u64> {
    match &entry.what {
        What::File(content) => Some(content.len()),
        _ => None,
    }
}

/// Length of a regular file; 0 for everything else.
pub fn len(entry: &Entry) -> u64 {
    file_len(entry).unwrap_or(0)
}

/// An owner's name, or the number where there was none.
pub fn owner(owner: &Owner) -> String {
    if owner.name.is_empty() { owner.id.to_string() } else { escaped(&owner.name) }
}

/// Text for a terminal: control characters and what is not UTF-8 as escapes, so that a file name can neither move the
/// cursor nor forge a line.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for letter in part.valid().chars() {
            let is_harmful = letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            match is_harmful {
                true => text.extend(letter.escape_default()),
                false => text.push(letter),
            }
        }
        text.extend(part.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// A count with its word: `1 file`, `3 files`.
pub fn count(number: u64, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}

/// A table without lines, columns two spaces apart; the columns named by `right` are flush right.
pub fn table(header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for at in 0..header.len() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 2));
            if right.contains(&at) {
                column.set_cell_alignment(comfy_table::CellAlignment::Right);
            }
        }
    }
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinkeep_engine::branch::entry::{Content, Metadata};

    #[test]
    fn sizes_and_durations() {
        let check = |bytes, expected: &str| assert_eq!(size(bytes), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1_048_575, "1.0 MiB");
        check(5 << 30, "5.0 GiB");
        check(u64::MAX, "16384.0 PiB");
        let check = |millis, expected: &str| assert_eq!(duration(std::time::Duration::from_millis(millis)), expected);
        check(340, "0.3 s");
        check(12_900, "12 s");
        check(245_000, "4:05 min");
        check(7_384_000, "2:03:04 h");
    }

    #[test]
    fn modes_look_like_ls() {
        let check = |bits, what, expected: &str| {
            let entry = Entry { name: Box::from(*b"x"), meta: Metadata { mode: bits, ..Metadata::default() }, what };
            assert_eq!(mode(&entry), expected);
        };
        let file = || What::File(Content::Inline(Box::default()));
        check(0o644, file(), "-rw-r--r--");
        check(0o4755, file(), "-rwsr-xr-x");
        check(0o2644, file(), "-rw-r-Sr--");
        check(0o1777, What::Directory(ChunkId([0; 32])), "drwxrwxrwt");
        check(0o1000, What::Fifo, "p--------T");
        check(0o777, What::Symlink(Box::default()), "lrwxrwxrwx");
    }

    #[test]
    fn names_cannot_play_with_the_terminal() {
        assert_eq!(escaped(b"a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(escaped("gr\u{fc}n \u{202e}x".as_bytes()), "grün \\u{202e}x");
        assert_eq!(escaped(b"\xff\xfe"), "\\xff\\xfe");
    }

    #[test]
    fn times() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(local_file_time(FileTime { secs: 0, nanos: 5 }, &zone), "1970-01-01 01:00:00");
        assert_eq!(local_file_time(FileTime { secs: i64::MAX, nanos: 0 }, &zone), format!("@{}", i64::MAX));
        assert_eq!(
            json_file_time(FileTime { secs: -1, nanos: 500_000_000 }).as_deref(),
            Some("1969-12-31T23:59:59.5Z")
        );
        assert_eq!(timestamp(Time(1_500_000_000)).to_string(), "1970-01-01T00:00:01.5Z");
    }

    #[test]
    fn tables_are_plain() {
        let rows = vec![vec!["a".into(), "1".into(), "x".into()], vec!["bbb".into(), "20".into(), "".into()]];
        assert_eq!(table(&["Name", "Size", "T"], rows, &[1]), "Name  Size  T\na        1  x\nbbb     20\n");
    }
}
