//! Rows of chunks, in two tables: most are in `chunks`, the newest in `young`, until these are a good part of all.
//!
//! Ids are spread evenly, so what a session adds would change every page of the large table, and every page that is
//! changed is written anew: some hundred bytes for each row. In the small table it changes few; moved over in the end,
//! in order, a page of the large one takes many at a time. A chunk has a row in one of the tables.

use super::{ChunkRow, damaged};
use crate::id::ChunkId;
use crate::kv::{self, Kv, KvError, Read, Table, Write};
use std::collections::VecDeque;

/// Rows stay in the small table while they are fewer than one for so many in the large one …
const LARGE_PER_YOUNG: u64 = 4;

/// Young rows moved in one transaction: with the pages of the large table they fall into, some 20 MB until it ends.
const MOVED_AT_ONCE: usize = 50_000;

/// Young rows read ahead of a scan.
const READ_AHEAD: usize = 4096;

/// The row of a chunk, whatever its state.
pub fn chunk(read: &dyn Read, id: &ChunkId) -> kv::Result<Option<ChunkRow>> {
    let row = match read.get(Table::Young, &id.0)? {
        None => read.get(Table::Chunks, &id.0)?,
        young => young,
    };
    row.map(ChunkRow::decode).transpose()
}

/// Sets a chunk's row.
pub fn put_chunk(write: &mut dyn Write, id: &ChunkId, row: ChunkRow) -> kv::Result<()> {
    let table = match write.get(Table::Chunks, &id.0)? {
        Some(_) => Table::Chunks,
        None => Table::Young,
    };
    write.put(table, &id.0, &row.encode())
}

/// Where a transaction that enters many chunks without rows puts them; to be asked when it begins.
pub(super) fn table_for_new(read: &dyn Read) -> kv::Result<Table> {
    let is_first = read.count(Table::Chunks)? == 0 && read.count(Table::Young)? == 0;
    Ok(if is_first { Table::Chunks } else { Table::Young })
}

/// Sets the row of a chunk that has none.
pub(super) fn put_new_chunk(write: &mut dyn Write, table: Table, id: &ChunkId, row: ChunkRow) -> kv::Result<()> {
    write.put(table, &id.0, &row.encode())
}

/// Forgets a chunk.
pub fn delete_chunk(write: &mut dyn Write, id: &ChunkId) -> kv::Result<()> {
    for table in [Table::Chunks, Table::Young, Table::Unwhole, Table::Leaning] {
        write.delete(table, &id.0)?;
    }
    Ok(())
}

/// Moves young rows to the others once they are many. Several transactions, each of which leaves a whole index; the
/// caller holds the index lock.
pub fn settle_young(kv: &dyn Kv) -> kv::Result<()> {
    {
        let read = kv.read()?;
        let young = read.count(Table::Young)?;
        let large = read.count(Table::Chunks)?;
        if young < crate::zoo::units().young_rows || young < large / LARGE_PER_YOUNG {
            return Ok(());
        }
    }
    match move_young(kv) {
        // They are as good where they are: a full disk or map is no reason to fail whoever has just stored them.
        Err(KvError::NoSpace) => Ok(()),
        moved => moved,
    }
}

fn move_young(kv: &dyn Kv) -> kv::Result<()> {
    loop {
        let mut write = kv.write()?;
        let mut rows = Vec::new();
        super::scan(&*write, Table::Young, &[], |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(rows.len() < MOVED_AT_ONCE)
        })?;
        if rows.is_empty() {
            return Ok(());
        }
        for (key, value) in &rows {
            write.put(Table::Chunks, key, value)?;
            write.delete(Table::Young, key)?;
        }
        write.commit()?;
    }
}

/// Visits chunk rows in id order from `from` on; `visit` answers whether to go on.
pub fn chunks_from(read: &dyn Read, from: &[u8], visit: &mut dyn FnMut(ChunkId, ChunkRow) -> bool) -> kv::Result<()> {
    scan_both(read, from, |key, value| {
        let id = ChunkId::from_slice(key).ok_or_else(|| damaged("a chunk id"))?;
        Ok(visit(id, ChunkRow::decode(value)?))
    })
}

/// Visits chunk rows as [`chunks_from`] does, in an index that may be damaged: a row that cannot be is `None`, and one
/// under a key that cannot be is passed over.
pub fn chunk_rows_as_they_are(
    read: &dyn Read,
    from: &[u8],
    visit: &mut dyn FnMut(ChunkId, Option<ChunkRow>) -> bool,
) -> kv::Result<()> {
    scan_both(read, from, |key, value| {
        Ok(ChunkId::from_slice(key).is_none_or(|id| visit(id, ChunkRow::decode(value).ok())))
    })
}

/// Rows of both tables in the order of their keys.
fn scan_both(read: &dyn Read, from: &[u8], mut visit: impl FnMut(&[u8], &[u8]) -> kv::Result<bool>) -> kv::Result<()> {
    let mut young = Young { read, from: Some(from.to_vec()), ahead: VecDeque::new() };
    let mut goes_on = true;
    super::scan(read, Table::Chunks, from, |key, value| {
        while goes_on && let Some((young_key, young_value)) = young.next_if(|young| young <= key)? {
            goes_on = visit(&young_key, &young_value)?;
            if young_key == key {
                return Ok(goes_on);
            }
        }
        goes_on = goes_on && visit(key, value)?;
        Ok(goes_on)
    })?;
    while goes_on && let Some((key, value)) = young.next_if(|_| true)? {
        goes_on = visit(&key, &value)?;
    }
    Ok(())
}

type Row = (Vec<u8>, Vec<u8>);

/// Young rows one after the other.
struct Young<'a> {
    read: &'a dyn Read,
    /// Where those begin that are not read yet.
    from: Option<Vec<u8>>,
    ahead: VecDeque<Row>,
}

impl Young<'_> {
    fn next_if(&mut self, wanted: impl Fn(&[u8]) -> bool) -> kv::Result<Option<Row>> {
        if self.ahead.is_empty()
            && let Some(mut from) = self.from.take()
        {
            super::scan(self.read, Table::Young, &from, |key, value| {
                self.ahead.push_back((key.to_vec(), value.to_vec()));
                Ok(self.ahead.len() < READ_AHEAD)
            })?;
            if self.ahead.len() == READ_AHEAD
                && let Some((last, _)) = self.ahead.back()
            {
                // The least key above it.
                from.clone_from(last);
                from.push(0);
                self.from = Some(from);
            }
        }
        Ok(self.ahead.pop_front_if(|(key, _)| wanted(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChunkState, FrameNumber};
    use super::*;
    use crate::env::Dice;
    use crate::files::faulty::{Call, Fault, Faults, FaultyKvHome};
    use crate::kv::KvHome;
    use crate::kv::memory::MemoryKvHome;
    use crate::limits::YOUNG_ROWS_MIN;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn id(dice: &mut Dice) -> ChunkId {
        let mut id = [0; 32];
        id[0] = dice.below(40) as u8;
        ChunkId(id)
    }

    /// Whatever is done, both tables together say what one map would.
    #[test]
    fn two_tables_are_one_map() {
        for seed in 0..300 {
            let mut dice = Dice(seed);
            let kv = MemoryKvHome::new().replace(&mut |_| Ok(())).unwrap();
            let mut model = BTreeMap::new();
            let mut settled = 0;
            for step in 0..60 {
                let mut write = kv.write().unwrap();
                let table = table_for_new(&*write).unwrap();
                for _ in 0..dice.below(6) {
                    let id = id(&mut dice);
                    let row = ChunkRow { frame: FrameNumber(step), position: 1, state: ChunkState::Admitted };
                    match dice.below(4) {
                        0 => {
                            delete_chunk(&mut *write, &id).unwrap();
                            model.remove(&id);
                        }
                        1 if !model.contains_key(&id) => {
                            put_new_chunk(&mut *write, table, &id, row).unwrap();
                            model.insert(id, row);
                        }
                        _ => {
                            put_chunk(&mut *write, &id, row).unwrap();
                            model.insert(id, row);
                        }
                    }
                }
                write.commit().unwrap();
                let young = kv.read().unwrap().count(Table::Young).unwrap();
                if dice.one_in(3) {
                    settle(&*kv);
                    settled += young;
                }
                let read = kv.read().unwrap();
                let from = id(&mut dice);
                let mut found = Vec::new();
                let most = 1 + dice.below(50);
                chunks_from(&*read, &from.0, &mut |id, row| {
                    found.push((id, row));
                    found.len() < most
                })
                .unwrap();
                let expected: Vec<_> = model.range(from..).map(|(id, row)| (*id, *row)).take(most).collect();
                assert_eq!(found, expected, "seed {seed}, step {step}");
                assert_eq!(chunk(&*read, &from).unwrap(), model.get(&from).copied(), "seed {seed}, step {step}");
                let rows = read.count(Table::Young).unwrap() + read.count(Table::Chunks).unwrap();
                assert_eq!(rows, model.len() as u64, "seed {seed}, step {step}: no chunk has two rows");
            }
            assert!(settled > 0);
        }
    }

    #[test]
    fn young_rows_stay_young_on_a_full_disk() {
        let faults = Faults::new();
        let kv = FaultyKvHome::new(Arc::new(MemoryKvHome::new()), faults.clone()).replace(&mut |_| Ok(())).unwrap();
        let row = ChunkRow { frame: FrameNumber(1), position: 1, state: ChunkState::Admitted };
        let count = YOUNG_ROWS_MIN + 1;
        let mut write = kv.write().unwrap();
        for number in 0..count {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            put_new_chunk(&mut *write, Table::Young, &ChunkId(id), row).unwrap();
        }
        write.commit().unwrap();
        let counts = || {
            let read = kv.read().unwrap();
            (read.count(Table::Young).unwrap(), read.count(Table::Chunks).unwrap())
        };
        faults.fail_once(Call::KvCommit, 1, Fault::Os(libc::ENOSPC));
        settle_young(&*kv).unwrap();
        assert_eq!((faults.hits(), counts()), (1, (count, 0)));
        settle_young(&*kv).unwrap();
        assert_eq!(counts(), (0, count));
    }

    /// [`settle_young`] however few they are.
    fn settle(kv: &dyn Kv) {
        move_young(kv).unwrap();
        assert_eq!(kv.read().unwrap().count(Table::Young).unwrap(), 0);
    }
}
