//! Tests of LMDB's own side: what `replace` leaves, damaged files, speed.

use super::lmdb::{LmdbHome, LmdbKv, verify};
use super::{Kv, KvError, KvHome, Table};
use crate::env::Dice;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

/// A home with many rows in every table, long values, and pages freed again.
fn filled(vault: &Path, rows: u64) -> LmdbHome {
    let home = LmdbHome::new(vault.to_path_buf());
    let kv = home.replace(&mut |_| Ok(())).unwrap();
    let mut dice = Dice(rows);
    for round in 0..6 {
        let mut write = kv.write().unwrap();
        for n in 0..rows {
            let table = Table::ALL[dice.below(Table::ALL.len())];
            let mut key = [0; 32];
            dice.fill(&mut key);
            let len = if dice.one_in(50) { dice.below(20_000) } else { dice.below(40) };
            write.put(table, &key, &vec![n as u8; len]).unwrap();
        }
        write.commit().unwrap();
        if round % 2 == 1 {
            let mut write = kv.write().unwrap();
            let mut gone = Vec::new();
            let mut visit = |key: &[u8], _: &[u8]| {
                gone.push(key.to_vec());
                if gone.len() as u64 > rows / 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            write.scan(Table::Chunks, b"5", &mut visit).unwrap();
            for key in gone {
                write.delete(Table::Chunks, &key).unwrap();
            }
            write.commit().unwrap();
        }
        verify(&vault.join("index/data.mdb")).unwrap();
    }
    home
}

#[test]
fn what_is_replaced_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let vault = folder.path();
    let home = LmdbHome::new(vault.to_path_buf());
    assert!(home.open().unwrap().is_none());
    // Left over by a crash while one was made.
    fs::create_dir(vault.join("index.new")).unwrap();
    fs::write(vault.join("index.new/data.mdb"), b"half").unwrap();
    drop(home.replace(&mut |_| Ok(())).unwrap());
    fs::write(vault.join("index/data.mdb"), b"rubbish").unwrap();
    assert!(matches!(home.open(), Err(KvError::Damaged(_))));
    drop(home.replace(&mut |_| Ok(())).unwrap());
    fs::remove_file(vault.join("index/data.mdb")).unwrap();
    assert!(matches!(home.open(), Err(KvError::Damaged(_))));
    drop(home.replace(&mut |_| Ok(())).unwrap());
    fs::remove_dir_all(vault.join("index")).unwrap();
    fs::write(vault.join("index"), b"a file").unwrap();
    assert!(matches!(home.open(), Err(KvError::Damaged(_))));
    drop(home.replace(&mut |_| Ok(())).unwrap());
    assert_eq!(fs::read(vault.join("index.broken-3")).unwrap(), b"a file");
    assert_eq!(fs::read(vault.join("index.broken-1/data.mdb")).unwrap(), b"rubbish");
    assert!(vault.join("index.broken-2").is_dir() && !vault.join("index.new").exists());
}

#[test]
fn a_vault_moved_away_while_open_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let home = filled(folder.path(), 10);
    let kv = home.open().unwrap().unwrap();
    fs::rename(folder.path().join("index"), folder.path().join("elsewhere")).unwrap();
    assert!(matches!(kv.write().err(), Some(KvError::Io(_))));
    fs::create_dir(folder.path().join("index")).unwrap();
    fs::copy(folder.path().join("elsewhere/data.mdb"), folder.path().join("index/data.mdb")).unwrap();
    assert!(matches!(kv.write().err(), Some(KvError::Io(_))));
    assert!(matches!(home.open().err(), Some(KvError::Io(_))));
    drop(kv);
    assert!(home.open().unwrap().is_some());
}

#[test]
fn many_opens_and_drops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let home = filled(folder.path(), 10);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let kv = home.open().unwrap().unwrap();
                    assert!(kv.read().unwrap().count(Table::Meta).unwrap() > 0);
                }
            });
        }
    });
}

/// Damage in a file must end in an error or be harmless: this process is still here afterwards.
#[test]
fn damaged_files_never_kill() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    drop(filled(&source, 400));
    let good = fs::read(source.join("index/data.mdb")).unwrap();
    let seed = std::env::var("TWINKEEP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let mut refused = 0;
    for n in 0..400 {
        let mut bytes = good.clone();
        damage(&mut bytes, &mut dice);
        let vault = folder.path().join(n.to_string());
        fs::create_dir_all(vault.join("index")).unwrap();
        fs::write(vault.join("index/data.mdb"), &bytes).unwrap();
        if dice.one_in(4) {
            let mut rubbish = vec![0; dice.below(20_000)];
            dice.fill(&mut rubbish);
            fs::write(vault.join("index/lock.mdb"), rubbish).unwrap();
        }
        match LmdbHome::new(vault.clone()).open() {
            Ok(Some(kv)) => exercise(&*kv, &mut dice),
            Ok(None) => panic!("there is one"),
            Err(KvError::Damaged(_)) => refused += 1,
            Err(other) => panic!("damage reported as {other}"),
        }
        fs::remove_dir_all(vault).unwrap();
    }
    assert!(refused > 100, "{refused} of 400 refused");
}

fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let page = dice.below(bytes.len() / 4096) * 4096;
    match dice.below(6) {
        // In headers and offsets, where it hurts.
        0 | 1 => bytes[page + dice.below(64)] ^= 1 << dice.below(8),
        2 => {
            let at = page + dice.below(4096);
            bytes[at] ^= 1 << dice.below(8);
        }
        3 => bytes.truncate(dice.below(bytes.len())),
        4 => bytes[page..page + 4096].fill(0),
        _ => {
            let other = dice.below(bytes.len() / 4096) * 4096;
            bytes.copy_within(other..other + 4096, page);
        }
    }
}

fn exercise(kv: &dyn Kv, dice: &mut Dice) {
    let Ok(mut write) = kv.write() else { return };
    for table in Table::ALL {
        let mut keys = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            keys.push((key.to_vec(), value.iter().map(|&byte| u64::from(byte)).sum::<u64>()));
            ControlFlow::Continue(())
        };
        if write.scan(table, b"", &mut visit).is_err() {
            return;
        }
        for (key, _) in keys {
            let result = if dice.one_in(2) {
                write.delete(table, &key).map(drop)
            } else {
                write.put(table, &key, &vec![1; dice.below(6000)])
            };
            if result.is_err() {
                return;
            }
        }
    }
    let _ = write.commit();
}

#[test]
fn an_open_index_is_verified_while_others_write() {
    let folder = tempfile::tempdir().unwrap();
    let home = filled(folder.path(), 300);
    let kv = home.open().unwrap().unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..200_u32 {
                let mut write = kv.write().unwrap();
                let mut dice = Dice(u64::from(n));
                for _ in 0..20 {
                    write.put(Table::Frames, &dice.throw().to_be_bytes(), &[0; 100]).unwrap();
                }
                write.commit().unwrap();
            }
        });
        while !writer.is_finished() {
            kv.verify().unwrap();
        }
    });
}

#[test]
fn a_full_map_is_no_space_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = heed::EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(1 << 20).max_dbs(Table::ALL.len() as u32);
    // SAFETY: a new folder of our own, opened once.
    let env = unsafe { options.open(folder.path()) }.unwrap();
    let kv = LmdbKv::create(env, folder.path()).unwrap();
    let mut write = kv.write().unwrap();
    let refused = (0..300_u32).find_map(|n| write.put(Table::Meta, &n.to_be_bytes(), &[0; 8000]).err());
    assert!(matches!(refused, Some(KvError::NoSpace)));
    assert!(matches!(write.commit(), Err(KvError::NoSpace)), "the commit says why");
    let mut write = kv.write().unwrap();
    write.put(Table::Meta, b"small", b"").unwrap();
    write.commit().unwrap();
    assert_eq!(kv.read().unwrap().count(Table::Meta).unwrap(), 1);
    kv.verify().unwrap();
}

/// 300,000 sorted rows of 40 bytes into an empty table: well under 0.2 s is what rebuilding counts on.
#[test]
fn sorted_rows_go_in_fast() {
    let folder = tempfile::tempdir().unwrap();
    let home = LmdbHome::new(folder.path().to_path_buf());
    let mut keys = vec![[0; 32]; 300_000];
    let mut dice = Dice(1);
    keys.iter_mut().for_each(|key| dice.fill(key));
    keys.sort_unstable();
    let kv = home.replace(&mut |_| Ok(())).unwrap();
    let start = std::time::Instant::now();
    let mut write = kv.write().unwrap();
    for key in &keys {
        write.put(Table::Chunks, key, &[7; 8]).unwrap();
    }
    let filled = start.elapsed();
    write.commit().unwrap();
    let data = folder.path().join("index/data.mdb");
    let len = fs::metadata(&data).unwrap().len();
    println!("300,000 rows in {filled:?}, committed after {:?}, {} B a row", start.elapsed(), len / 300_000);
    let start = std::time::Instant::now();
    verify(&data).unwrap();
    println!("{} MiB verified in {:?}", len >> 20, start.elapsed());
    assert_eq!(kv.read().unwrap().count(Table::Chunks).unwrap(), 300_000);
    assert!(len / 300_000 < 60, "pages are filled to the brim");
}
