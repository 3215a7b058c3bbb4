//! Secrets in files: 32 bytes as 64 hex digits, readable by their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use twinkeep_engine::env::Entropy;
use zeroize::Zeroizing;

/// A secret, wiped when dropped.
pub type Secret = Zeroizing<[u8; 32]>;

/// Draws one.
pub fn draw(entropy: &dyn Entropy) -> Secret {
    let mut secret = Zeroizing::new([0; 32]);
    entropy.fill(&mut *secret);
    secret
}

/// Makes a folder that nobody else may look into.
pub fn make_folder(path: &Path) -> io::Result<()> {
    make(path, 0o700)
}

/// Makes a folder through which others reach what they know the name of and may use, without looking around in it.
pub fn make_passage(path: &Path) -> io::Result<()> {
    make(path, 0o711)
}

fn make(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Reads one.
///
/// # Errors
/// The file is missing, or holds something else.
pub fn read(path: &Path) -> io::Result<Secret> {
    let mut text = Zeroizing::new(String::with_capacity(128));
    File::open(path)?.take(128).read_to_string(&mut text)?;
    let digits = text.trim_end();
    let mut secret = Zeroizing::new([0; 32]);
    let is_hex = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex {
        return Err(io::Error::new(ErrorKind::InvalidData, "no key of 64 hex digits"));
    }
    for (byte, pair) in secret.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
    Ok(secret)
}

/// Writes one to a file that is not there yet; durable when it returns.
pub fn write(path: &Path, secret: &[u8; 32]) -> io::Result<()> {
    let mut line = Zeroizing::new(String::with_capacity(65));
    for byte in secret {
        line.push(char::from_digit((byte >> 4).into(), 16).unwrap_or('0'));
        line.push(char::from_digit((byte & 15).into(), 16).unwrap_or('0'));
    }
    line.push('\n');
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Writes a file as a whole: whoever opens it sees the old one or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_come_back_and_are_their_owners() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("keys");
        make_folder(&folder).unwrap();
        let path = folder.join("a.key");
        let secret: [u8; 32] = std::array::from_fn(|at| at as u8 * 7);
        write(&path, &secret).unwrap();
        assert_eq!(*read(&path).unwrap(), secret);
        assert!(write(&path, &secret).is_err(), "never over another");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&path)), (0o700, 0o600));
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(66)] {
            fs::write(&path, bad).unwrap();
            assert!(read(&path).is_err(), "{bad}");
        }
        replace(&path, b"x").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }
}
