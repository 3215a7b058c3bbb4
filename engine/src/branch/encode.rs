//! Values in, references and canonical payload out.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use capnp::message::{Builder, HeapAllocator};
use twinkeep_schema::tree_capnp::{entry, extra, node, piece, snapshot};

use super::check::{self, padded, within, xattrs_len};
use super::entry::{Content, Entry, Metadata, Owner, Piece, What, Xattr};
use super::{DirectoryNode, EncodedBranch, FileNode, InnerDir, InnerFile, Result, Snapshot};
use crate::id::ChunkId;
use crate::limits::{BRANCH_REFS_MAX, CHUNK_LEN_MAX};

/// Bytes of an entry in a payload besides names and content: its struct and its extra struct.
const ENTRY_LEN: usize = 56 + 40;
/// Bytes of an owner besides its name.
const OWNER_LEN: usize = 16;
/// Bytes of a piece, and of a child of an upper file node.
pub(super) const PIECE_LEN: usize = 16;
/// Bytes of a child of an upper directory node besides its names.
const CHILD_LEN: usize = 32;
/// Bytes of what stands once in a message: root pointer, root struct, tags.
const ROOT_LEN: usize = 256;

/// Encodes a directory node of either level.
pub fn encode_directory(node: &DirectoryNode) -> Result<EncodedBranch> {
    match node {
        DirectoryNode::Entries(entries) => encode_entries(entries),
        DirectoryNode::Inner(children) => encode_directory_inner(children),
    }
}

/// Encodes a file node of either level.
pub fn encode_file(node: &FileNode) -> Result<EncodedBranch> {
    match node {
        FileNode::Pieces(pieces) => encode_pieces(pieces),
        FileNode::Inner(children) => encode_file_inner(children),
    }
}

/// Encodes the entries of a directory, strictly ascending by name, at most `LIST_ENTRIES_MAX`.
pub fn encode_entries(entries: &[Entry]) -> Result<EncodedBranch> {
    check::entries(entries)?;
    let mut refs = Refs::for_entries(entries.len());
    let mut message = message(entries.iter().map(entry_len).sum());
    let mut root = message.init_root::<node::Builder<'_>>().init_directory();
    if !entries.is_empty() {
        let (owners, positions) = collect_owners(entries);
        let mut list = root.reborrow().init_owners(owners.len() as u32);
        for (at, owner) in owners.iter().enumerate() {
            let mut to = list.reborrow().get(at as u32);
            to.set_id(owner.id);
            if !owner.name.is_empty() {
                to.set_name(&owner.name);
            }
        }
        let mut list = root.init_entries(entries.len() as u32);
        for (at, (entry, [user, group])) in entries.iter().zip(positions).enumerate() {
            let mut to = list.reborrow().get(at as u32);
            to.set_user_owner(user);
            to.set_group_owner(group);
            put_entry(to, entry, &mut refs);
        }
    }
    finish(message, refs)
}

/// Encodes the children of an upper directory node, ascending, ranges disjoint, 1 to `LIST_ENTRIES_MAX`.
pub fn encode_directory_inner(children: &[InnerDir]) -> Result<EncodedBranch> {
    check::inner_dirs(children)?;
    let mut refs = Refs::default();
    let mut message = message(children.iter().map(inner_dir_len).sum());
    let mut list = message.init_root::<node::Builder<'_>>().init_directory_inner(children.len() as u32);
    for (at, child) in children.iter().enumerate() {
        let mut to = list.reborrow().get(at as u32);
        to.set_first_name(&child.first_name);
        to.set_last_name(&child.last_name);
        to.set_entries(child.entries);
        to.set_node(refs.position(&child.node));
    }
    finish(message, refs)
}

/// Encodes the pieces of a file, at most `LIST_ENTRIES_MAX`.
pub fn encode_pieces(pieces: &[Piece]) -> Result<EncodedBranch> {
    check::pieces(pieces)?;
    let mut refs = Refs::default();
    let mut message = message(pieces.len() * PIECE_LEN);
    let root = message.init_root::<node::Builder<'_>>();
    put_pieces(root.init_file(pieces.len() as u32), pieces, &mut refs);
    finish(message, refs)
}

/// Encodes the children of an upper file node, 1 to `LIST_ENTRIES_MAX`.
pub fn encode_file_inner(children: &[InnerFile]) -> Result<EncodedBranch> {
    check::inner_files(children)?;
    let mut refs = Refs::default();
    let mut message = message(children.len() * PIECE_LEN);
    let mut list = message.init_root::<node::Builder<'_>>().init_file_inner(children.len() as u32);
    for (at, child) in children.iter().enumerate() {
        let mut to = list.reborrow().get(at as u32);
        to.set_len(child.len);
        to.set_node(refs.position(&child.node));
    }
    finish(message, refs)
}

/// Encodes the root of a snapshot; its only reference is the tree.
pub fn encode_snapshot(from: &Snapshot) -> Result<EncodedBranch> {
    let len = snapshot_len(from);
    within("bytes of a snapshot", len, CHUNK_LEN_MAX)?;
    let mut refs = Refs::default();
    let mut message = message(len);
    put_snapshot(message.init_root::<node::Builder<'_>>().init_snapshot(), from, &mut refs);
    finish(message, refs)
}

/// Most bytes an entry adds to a payload, counting its owners as if nobody else had them.
pub(super) fn entry_len(entry: &Entry) -> usize {
    let meta = &entry.meta;
    let what = match &entry.what {
        What::File(Content::Inline(bytes)) | What::Symlink(bytes) => padded(bytes.len()),
        What::File(Content::Pieces(pieces)) => 8 + pieces.len() * PIECE_LEN,
        What::File(Content::One { .. } | Content::Tree { .. }) | What::Directory(_) => 0,
        What::CharDevice { .. } | What::BlockDevice { .. } | What::Fifo | What::Socket => 0,
    };
    let owners = 2 * OWNER_LEN + padded(meta.user.name.len()) + padded(meta.group.name.len());
    let xattrs = if meta.xattrs.is_empty() { 0 } else { 8 + xattrs_len(&meta.xattrs) };
    ENTRY_LEN + padded(entry.name.len()) + what + owners + xattrs
}

/// Most bytes a child adds to an upper directory node.
pub(super) fn inner_dir_len(child: &InnerDir) -> usize {
    CHILD_LEN + padded(child.first_name.len()) + padded(child.last_name.len())
}

fn snapshot_len(from: &Snapshot) -> usize {
    // A list element costs a pointer, its bytes, a zero after text, and padding.
    let texts = |list: &[String]| list.iter().map(|text| 16 + padded(text.len())).sum::<usize>();
    let paths: usize = from.paths.iter().map(|path| 16 + padded(path.len())).sum();
    let single = [&from.host, &from.user, &from.program].iter().map(|text| 8 + padded(text.len())).sum::<usize>();
    ROOT_LEN + paths + single + texts(&from.tags) + texts(&from.command) + texts(&from.excludes)
}

/// The distinct owners in order of first use, and each entry's user and group as positions among them.
fn collect_owners(entries: &[Entry]) -> (Vec<&Owner>, Vec<[u16; 2]>) {
    let mut owners = Vec::new();
    let mut known = HashMap::new();
    let mut position = |owner, hint: Option<u16>| {
        // Most entries have the owners of the entry before.
        if let Some(same) = hint.filter(|at| owners.get(usize::from(*at)) == Some(&owner)) {
            return same;
        }
        *known.entry(owner).or_insert_with(|| {
            owners.push(owner);
            (owners.len() - 1) as u16
        })
    };
    let mut positions: Vec<[u16; 2]> = Vec::with_capacity(entries.len());
    for Entry { meta, .. } in entries {
        let last = positions.last().copied();
        let user = position(&meta.user, last.map(|[user, _]| user));
        let group = position(&meta.group, last.map(|[_, group]| group));
        positions.push([user, group]);
    }
    (owners, positions)
}

// Two owners an entry, counted in u16.
const _: () = assert!(2 * crate::limits::LIST_ENTRIES_MAX <= u16::MAX as usize + 1);

fn put_entry(mut to: entry::Builder<'_>, entry: &Entry, refs: &mut Refs) {
    to.set_name(&entry.name);
    to.set_mode(entry.meta.mode as u16);
    to.set_mtime_secs(entry.meta.mtime.secs);
    to.set_mtime_nanos(entry.meta.mtime.nanos);
    if has_extra(&entry.meta) {
        put_extra(to.reborrow().init_extra(), &entry.meta);
    }
    match &entry.what {
        What::File(content) => put_content(to, content, refs),
        What::Directory(root) => to.set_directory(refs.position(root)),
        What::Symlink(target) => to.set_symlink(target),
        What::CharDevice { major, minor } => {
            let mut to = to.init_char_device();
            to.set_major(*major);
            to.set_minor(*minor);
        }
        What::BlockDevice { major, minor } => {
            let mut to = to.init_block_device();
            to.set_major(*major);
            to.set_minor(*minor);
        }
        What::Fifo => to.set_fifo(()),
        What::Socket => to.set_socket(()),
    }
}

fn put_content(mut to: entry::Builder<'_>, content: &Content, refs: &mut Refs) {
    match content {
        Content::Inline(bytes) if bytes.is_empty() => {
            to.init_inline(0);
        }
        Content::Inline(bytes) => to.set_inline(bytes),
        Content::One { len, chunk } => {
            let mut to = to.init_one();
            to.set_len(*len);
            to.set_leaf(refs.position(chunk));
        }
        Content::Pieces(pieces) => put_pieces(to.init_pieces(pieces.len() as u32), pieces, refs),
        Content::Tree { len, root } => {
            let mut to = to.init_tree();
            to.set_len(*len);
            to.set_node(refs.position(root));
        }
    }
}

fn put_pieces(mut list: capnp::struct_list::Builder<'_, piece::Owned>, pieces: &[Piece], refs: &mut Refs) {
    for (at, piece) in pieces.iter().enumerate() {
        let mut to = list.reborrow().get(at as u32);
        to.set_len(piece.len);
        to.set_leaf(piece.chunk.map_or(0, |chunk| refs.position(&chunk) + 1));
    }
}

fn has_extra(meta: &Metadata) -> bool {
    meta.atime.is_some() || meta.link.is_some() || !meta.xattrs.is_empty()
}

fn put_extra(mut to: extra::Builder<'_>, meta: &Metadata) {
    if let Some(atime) = meta.atime {
        to.set_has_atime(true);
        to.set_atime_secs(atime.secs);
        to.set_atime_nanos(atime.nanos);
    }
    if let Some(link) = meta.link {
        to.set_has_link(true);
        to.set_link_device(link.device);
        to.set_link_inode(link.inode);
    }
    if meta.xattrs.is_empty() {
        return;
    }
    let mut list = to.init_xattrs(meta.xattrs.len() as u32);
    for (at, Xattr { name, value }) in meta.xattrs.iter().enumerate() {
        let mut to = list.reborrow().get(at as u32);
        to.set_name(name);
        if !value.is_empty() {
            to.set_value(value);
        }
    }
}

fn put_snapshot(mut to: snapshot::Builder<'_>, from: &Snapshot, refs: &mut Refs) {
    to.set_tree(refs.position(&from.tree));
    to.set_partial(from.partial);
    to.set_time(from.time.0);
    to.set_started(from.started.0);
    to.set_session(&from.session.0);
    if let Some(parent) = &from.parent {
        to.set_parent(&parent.0);
    }
    to.set_host(&from.host);
    to.set_user(&from.user);
    to.set_program(&from.program);
    let mut paths = to.reborrow().init_paths(from.paths.len() as u32);
    for (at, path) in from.paths.iter().enumerate() {
        paths.set(at as u32, path);
    }
    put_texts(to.reborrow().init_tags(from.tags.len() as u32), &from.tags);
    put_texts(to.reborrow().init_command(from.command.len() as u32), &from.command);
    put_texts(to.reborrow().init_excludes(from.excludes.len() as u32), &from.excludes);
    let mut totals = to.init_totals();
    totals.set_files(from.totals.files);
    totals.set_dirs(from.totals.dirs);
    totals.set_others(from.totals.others);
    totals.set_bytes(from.totals.bytes);
    totals.set_errors(from.totals.errors);
}

fn put_texts(mut list: capnp::text_list::Builder<'_>, texts: &[String]) {
    for (at, text) in texts.iter().enumerate() {
        list.set(at as u32, text);
    }
}

/// A message whose first segment holds `len` bytes and the root.
fn message(len: usize) -> Builder<HeapAllocator> {
    Builder::new(HeapAllocator::new().first_segment_words(((len + ROOT_LEN) / 8) as u32))
}

/// Copies a message into its canonical form.
fn finish(message: Builder<HeapAllocator>, refs: Refs) -> Result<EncodedBranch> {
    within("references of a branch", refs.ids.len(), BRANCH_REFS_MAX)?;
    // Zeros cut off make it shorter, so one segment always suffices.
    let len = message.get_segments_for_output().iter().map(|segment| segment.len()).sum();
    let mut canonical = self::message(len);
    canonical.set_root_canonical(message.get_root_as_reader::<node::Reader<'_>>()?)?;
    let payload = canonical.get_segments_for_output().concat();
    within("bytes of a branch", payload.len(), CHUNK_LEN_MAX)?;
    Ok(EncodedBranch { refs: refs.ids, payload })
}

/// The children named so far.
#[derive(Default)]
struct Refs {
    ids: Vec<ChunkId>,
    positions: HashMap<ChunkId, u32, BuildHasherDefault<IdHasher>>,
}

impl Refs {
    fn for_entries(len: usize) -> Self {
        Self { ids: Vec::with_capacity(len), positions: HashMap::with_capacity_and_hasher(len, Default::default()) }
    }

    /// Position of a child, which becomes the next one if it is new.
    fn position(&mut self, id: &ChunkId) -> u32 {
        *self.positions.entry(*id).or_insert_with(|| {
            self.ids.push(*id);
            (self.ids.len() - 1) as u32
        })
    }
}

/// Ids are keyed hashes already: their first bytes will do.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}
