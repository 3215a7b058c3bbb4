//! LMDB's data file read without LMDB: meta pages and the trees below them, checked in safe code with plain reads.
//!
//! Layout after `mdb.c` of LMDB (data version 1, 64-bit, little-endian), offsets in bytes from the start of a page:
//!
//! | what | bytes |
//! |---|---|
//! | page | 0 page number u64, 8 pad u16, 10 flags u16, 12 lower u16, 14 upper u16 (overflow: 12 pages u32), 16 node offsets u16 each |
//! | meta | 16 magic u32, 20 version u32, 24 address u64, 32 map length u64, 40 free tree, 88 main tree, 136 last page u64, 144 transaction u64 |
//! | tree | 0 pad u32 (free tree: page length), 4 flags u16, 6 depth u16, 8 branch pages u64, 16 leaf pages u64, 24 overflow pages u64, 32 entries u64, 40 root u64 |
//! | node | 0 value length or child u32, 4 flags (or child's high bits) u16, 6 key length u16, 8 key, then the value |
//!
//! What passes [`verify_pages`] cannot make LMDB leave its file or its pages.

use super::lmdb::io_error;
use super::{KvError, Result};
use std::fs::File;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
const PAGE_LEN_MIN: usize = 512;
const PAGE_LEN_MAX: usize = 32 << 10;
/// Largest map we believe a meta page: sixteen times ours.
const MAP_LEN_MAX: u64 = 16 << 40;
const HEADER_LEN: usize = 16;
const NODE_LEN: usize = 8;
const TREE_LEN: usize = 48;
const META_LEN: usize = 152;
/// Height of LMDB's cursor stack.
const DEPTH_MAX: u16 = 32;
const KEY_LEN_MAX: usize = 511;
const NO_PAGE: u64 = u64::MAX;

const PAGE_BRANCH: u16 = 0x01;
const PAGE_LEAF: u16 = 0x02;
const PAGE_OVERFLOW: u16 = 0x04;
const PAGE_META: u16 = 0x08;
const NODE_BIG: u16 = 0x01;
const NODE_TREE: u16 = 0x02;
const TREE_INTEGER_KEYS: u16 = 0x08;

#[cfg(not(all(target_pointer_width = "64", target_endian = "little")))]
compile_error!("LMDB's pages are laid out by the machine; only those of 64-bit little-endian ones are known here");

/// How much of a state is verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// The list of tables and where each begins: a few pages, enough for LMDB to open the tables.
    Roots,
    /// Every page in use.
    Everything,
}

/// One of the two meta pages, checked by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    /// Page length, bytes.
    pub(super) page_len: usize,
    /// The transaction that wrote it.
    pub(super) txn: u64,
    page_last: u64,
    free: Tree,
    main: Tree,
}

impl Meta {
    /// Pages up to the last one used.
    pub(super) fn pages(&self) -> u64 {
        self.page_last + 1
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tree {
    flags: u16,
    depth: u16,
    branches: u64,
    leaves: u64,
    overflows: u64,
    entries: u64,
    root: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Transaction → pages it freed.
    Free,
    /// Table name → tree.
    Main,
    Table,
}

/// Reads and checks both meta pages.
pub(super) fn metas(file: &File) -> Result<[Meta; 2]> {
    let len = file.metadata().map_err(io_error)?.len();
    let first = meta(file, 0, 0)?;
    let second = meta(file, 1, first.page_len as u64)?;
    if first.page_len != second.page_len {
        return damaged("its meta pages differ in page length");
    }
    if len < 2 * first.page_len as u64 {
        return damaged("it ends before its second page");
    }
    Ok([first, second])
}

fn meta(file: &File, number: u64, offset: u64) -> Result<Meta> {
    let mut page = [0; META_LEN];
    read_exact_at(file, &mut page, offset)?;
    let wrong = |what: &str| damaged(&format!("meta page {number}: {what}"));
    if u64_at(&page, 0) != number || u16_at(&page, 10) != PAGE_META {
        return wrong("not a meta page");
    }
    if u32_at(&page, 16) != MAGIC || u32_at(&page, 20) != VERSION {
        return wrong("unknown format");
    }
    let page_len = u32_at(&page, 40) as usize;
    if !page_len.is_power_of_two() || !(PAGE_LEN_MIN..=PAGE_LEN_MAX).contains(&page_len) {
        return wrong("impossible page length");
    }
    let (map_len, page_last) = (u64_at(&page, 32), u64_at(&page, 136));
    if map_len > MAP_LEN_MAX || page_last < 1 || page_last >= map_len / page_len as u64 {
        return wrong("impossible map length");
    }
    let (free, main) = (tree(&page[40..88]), tree(&page[88..136]));
    if free.flags != TREE_INTEGER_KEYS || main.flags != 0 {
        return wrong("unknown flags");
    }
    let file_pages = file.metadata().map_err(io_error)?.len() / page_len as u64;
    for tree in [free, main] {
        check_root(&tree, page_last, file_pages)?;
    }
    Ok(Meta { page_len, txn: u64_at(&page, 144), page_last, free, main })
}

fn tree(bytes: &[u8]) -> Tree {
    Tree {
        flags: u16_at(bytes, 4),
        depth: u16_at(bytes, 6),
        branches: u64_at(bytes, 8),
        leaves: u64_at(bytes, 16),
        overflows: u64_at(bytes, 24),
        entries: u64_at(bytes, 32),
        root: u64_at(bytes, 40),
    }
}

fn check_root(tree: &Tree, page_last: u64, file_pages: u64) -> Result<()> {
    if tree.root == NO_PAGE {
        let nothing =
            Tree { flags: tree.flags, depth: 0, branches: 0, leaves: 0, overflows: 0, entries: 0, root: NO_PAGE };
        return if *tree == nothing { Ok(()) } else { damaged("an empty tree claims pages") };
    }
    if tree.root < 2 || tree.root > page_last || tree.root >= file_pages {
        return damaged(&format!("a tree begins at page {}, outside the file", tree.root));
    }
    if tree.depth == 0 || tree.depth > DEPTH_MAX {
        return damaged(&format!("a tree claims depth {}", tree.depth));
    }
    Ok(())
}

/// Walks the trees of one state: every page whole, in the file, of the right kind, and used once.
pub(super) fn verify_pages(file: &File, meta: &Meta, extent: Extent) -> Result<()> {
    let file_pages = file.metadata().map_err(io_error)?.len() / meta.page_len as u64;
    let mut walk = Walk {
        file,
        page_len: meta.page_len,
        page_last: meta.page_last,
        pages: file_pages.min(meta.pages()),
        seen: vec![0; usize::try_from(file_pages.min(meta.pages()) / 64 + 1).unwrap_or(0)],
        tables: Vec::new(),
    };
    walk.mark(0, 2)?;
    walk.tree(&meta.main, Kind::Main)?;
    for table in std::mem::take(&mut walk.tables) {
        match extent {
            Extent::Roots => check_root(&table, walk.page_last, walk.pages)?,
            Extent::Everything => walk.tree(&table, Kind::Table)?,
        }
    }
    match extent {
        Extent::Roots => Ok(()),
        Extent::Everything => walk.tree(&meta.free, Kind::Free),
    }
}

struct Walk<'a> {
    file: &'a File,
    page_len: usize,
    page_last: u64,
    /// Pages that are both in the file and in use.
    pages: u64,
    seen: Vec<u64>,
    /// Tables found in the main tree.
    tables: Vec<Tree>,
}

/// What was counted while walking one tree, and where in its key order we are.
struct Course {
    kind: Kind,
    counted: Tree,
    /// Greatest key so far.
    previous: Option<Vec<u8>>,
    /// The next key must not be smaller: the last separator passed.
    floor: Option<Vec<u8>>,
}

impl Walk<'_> {
    fn tree(&mut self, tree: &Tree, kind: Kind) -> Result<()> {
        check_root(tree, self.page_last, self.pages)?;
        if tree.root == NO_PAGE {
            return Ok(());
        }
        let counted = Tree { branches: 0, leaves: 0, overflows: 0, entries: 0, ..*tree };
        let mut course = Course { kind, counted, previous: None, floor: None };
        self.subtree(tree.root, tree.depth, &mut course)?;
        if course.counted != *tree {
            return damaged(&format!("the tree at page {} holds other numbers than it claims", tree.root));
        }
        Ok(())
    }

    /// Recursion is bounded by the depth, itself at most [`DEPTH_MAX`].
    fn subtree(&mut self, number: u64, depth: u16, course: &mut Course) -> Result<()> {
        self.mark(number, 1)?;
        let page = self.read_page(number)?;
        let expected = if depth == 1 { PAGE_LEAF } else { PAGE_BRANCH };
        let (flags, lower, upper) = (u16_at(&page, 10), u16_at(&page, 12) as usize, u16_at(&page, 14) as usize);
        let is_whole = u64_at(&page, 0) == number
            && u16_at(&page, 8) == 0
            && flags == expected
            && lower % 2 == 0
            && (HEADER_LEN..=upper).contains(&lower)
            && upper <= self.page_len;
        if !is_whole {
            return damaged(&format!("page {number} has a wrong header"));
        }
        let nodes = (lower - HEADER_LEN) / 2;
        if nodes == 0 || (depth > 1 && nodes < 2) {
            return damaged(&format!("page {number} is empty"));
        }
        for i in 0..nodes {
            let offset = u16_at(&page, HEADER_LEN + 2 * i) as usize;
            let node =
                node(&page, offset, upper).ok_or_else(|| error(&format!("page {number}: node {i} leaves it")))?;
            if depth == 1 {
                self.leaf_node(number, &node, course)?;
            } else {
                branch_node(number, i, &node, course)?;
                self.subtree(node.child, depth - 1, course)?;
            }
        }
        match depth {
            1 => course.counted.leaves += 1,
            _ => course.counted.branches += 1,
        }
        Ok(())
    }

    fn leaf_node(&mut self, number: u64, node: &Node<'_>, course: &mut Course) -> Result<()> {
        let wrong = |what: &str| damaged(&format!("page {number}: {what}"));
        let in_order = course.previous.as_ref().is_none_or(|previous| course.kind.less(previous, node.key))
            && course.floor.take().is_none_or(|floor| !course.kind.less(node.key, &floor));
        let has_key = match course.kind {
            Kind::Free => node.key.len() == 8,
            Kind::Main | Kind::Table => (1..=KEY_LEN_MAX).contains(&node.key.len()),
        };
        if !in_order || !has_key {
            return wrong("a key is out of order");
        }
        course.previous = Some(node.key.to_vec());
        course.counted.entries += 1;
        match (course.kind, node.flags) {
            (Kind::Main, NODE_TREE) => {
                let value = node.inline.filter(|value| value.len() == TREE_LEN);
                let table = tree(value.ok_or_else(|| error(&format!("page {number}: a table of a wrong length")))?);
                if table.flags != 0 {
                    return wrong("a table with unknown flags");
                }
                self.tables.push(table);
                Ok(())
            }
            (Kind::Table, 0) if node.inline.is_some() => Ok(()),
            (Kind::Table, NODE_BIG) => self.overflow(node, course).map(drop),
            (Kind::Free, 0) => self.free_pages(number, node.inline.unwrap_or_default()),
            (Kind::Free, NODE_BIG) => {
                let start = self.overflow(node, course)?;
                let mut value = vec![0; node.value_len];
                read_exact_at(self.file, &mut value, start * self.page_len as u64 + HEADER_LEN as u64)?;
                self.free_pages(number, &value)
            }
            _ => wrong("a node of an unknown kind"),
        }
    }

    /// Checks the run of pages of a long value; returns its first.
    fn overflow(&mut self, node: &Node<'_>, course: &mut Course) -> Result<u64> {
        let start = node.big.ok_or_else(|| error("a long value without a page"))?;
        let needed = (HEADER_LEN - 1 + node.value_len) / self.page_len + 1;
        self.expect_in_file(start, 1)?;
        let mut header = [0; HEADER_LEN];
        read_exact_at(self.file, &mut header, start * self.page_len as u64)?;
        let count = u64::from(u32_at(&header, 12));
        if u64_at(&header, 0) != start || u16_at(&header, 10) != PAGE_OVERFLOW || count < needed as u64 {
            return damaged(&format!("page {start} does not begin a long value"));
        }
        self.mark(start, count)?;
        course.counted.overflows += count;
        Ok(start)
    }

    /// A list of free pages: how many, then their numbers, descending.
    fn free_pages(&mut self, number: u64, list: &[u8]) -> Result<()> {
        let wrong = || damaged(&format!("page {number}: a wrong list of free pages"));
        if list.len() < 8 || !list.len().is_multiple_of(8) || u64_at(list, 0) > (list.len() / 8 - 1) as u64 {
            return wrong();
        }
        let count = u64_at(list, 0) as usize;
        let mut previous = u64::MAX;
        for page in list[8..].chunks_exact(8).take(count).map(|bytes| u64_at(bytes, 0)) {
            if page < 2 || page >= previous || page > self.page_last {
                return wrong();
            }
            if page < self.pages {
                self.mark(page, 1)?;
            }
            previous = page;
        }
        Ok(())
    }

    fn expect_in_file(&self, start: u64, count: u64) -> Result<()> {
        match start.checked_add(count) {
            Some(end) if end <= self.pages => Ok(()),
            _ => damaged(&format!("page {start} is outside the file")),
        }
    }

    fn mark(&mut self, start: u64, count: u64) -> Result<()> {
        self.expect_in_file(start, count)?;
        for page in start..start + count {
            let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
            if self.seen[word] & bit != 0 {
                return damaged(&format!("page {page} is used twice"));
            }
            self.seen[word] |= bit;
        }
        Ok(())
    }

    fn read_page(&self, number: u64) -> Result<Vec<u8>> {
        let mut page = vec![0; self.page_len];
        read_exact_at(self.file, &mut page, number * self.page_len as u64)?;
        Ok(page)
    }
}

fn branch_node(number: u64, position: usize, node: &Node<'_>, course: &mut Course) -> Result<()> {
    // The first separator of a page means "from the beginning" and may be empty.
    if position == 0 {
        return Ok(());
    }
    let is_after = course.previous.as_ref().is_none_or(|previous| course.kind.less(previous, node.key));
    if !is_after || node.key.len() > KEY_LEN_MAX || (course.kind == Kind::Free && node.key.len() != 8) {
        return damaged(&format!("page {number}: a separator is out of order"));
    }
    course.floor = Some(node.key.to_vec());
    Ok(())
}

impl Kind {
    fn less(self, a: &[u8], b: &[u8]) -> bool {
        match (self, a.first_chunk(), b.first_chunk()) {
            (Self::Free, Some(a), Some(b)) => u64::from_le_bytes(*a) < u64::from_le_bytes(*b),
            _ => a < b,
        }
    }
}

struct Node<'a> {
    key: &'a [u8],
    flags: u16,
    /// In branch pages.
    child: u64,
    value_len: usize,
    /// The value, when it lies in the page.
    inline: Option<&'a [u8]>,
    /// The first page of the value, when it does not.
    big: Option<u64>,
}

fn node(page: &[u8], offset: usize, upper: usize) -> Option<Node<'_>> {
    if offset < upper || !offset.is_multiple_of(2) {
        return None;
    }
    let header = page.get(offset..offset + NODE_LEN)?;
    let (low, flags, key_len) = (u32_at(header, 0), u16_at(header, 4), u16_at(header, 6) as usize);
    let rest = &page[offset + NODE_LEN..];
    let (key, rest) = rest.split_at_checked(key_len)?;
    let value_len = low as usize;
    Some(Node {
        key,
        flags,
        child: u64::from(low) | u64::from(flags) << 32,
        value_len,
        inline: rest.get(..value_len),
        big: rest.get(..8).map(|bytes| u64_at(bytes, 0)),
    })
}

fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> Result<()> {
    #[cfg(unix)]
    let result = std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset);
    #[cfg(windows)]
    let result = {
        use std::io::{Read, Seek};
        let mut file = file;
        file.seek(std::io::SeekFrom::Start(offset)).and_then(|_| file.read_exact(bytes))
    };
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => damaged("it ends too early"),
        other => other.map_err(io_error),
    }
}

fn error(what: &str) -> KvError {
    KvError::Damaged(what.to_owned())
}

fn damaged<T>(what: &str) -> Result<T> {
    Err(error(what))
}

/// Callers have checked that the bytes are there.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
