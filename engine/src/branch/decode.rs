//! References and payload in, checked values out. Total: any bytes give a value or an error.

use capnp::message::{Reader, ReaderOptions, SegmentArray};
use capnp::{Word, struct_list, text_list};
use twinkeep_schema::tree_capnp::{directory_child, entry, extra, file_child, node, owner, piece, snapshot, xattr};

use super::check::{self, within};
use super::entry::{Content, Entry, FileTime, LinkId, Metadata, Owner, Piece, What, Xattr};
use super::{BranchError, DirectoryNode, EncodedBranch, FileNode, InnerDir, InnerFile, Node, Result, Snapshot, Totals};
use crate::env::Time;
use crate::id::{ChunkId, SessionId};
use crate::limits::{BRANCH_REFS_MAX, CHUNK_LEN_MAX, ENTRY_PIECES_MAX, LIST_ENTRIES_MAX, XATTRS_LEN_MAX};

/// Structs and lists inside each other: root, entries, entry, extra, attributes, attribute, bytes; and some to grow.
const NESTING_MAX: i32 = 16;

/// Reads a branch. Unknown newer fields are passed over; every rule on the known ones is checked.
pub fn decode(refs: &[ChunkId], payload: &[u8]) -> Result<Node> {
    within("references of a branch", refs.len(), BRANCH_REFS_MAX)?;
    within("bytes of a branch", payload.len(), CHUNK_LEN_MAX)?;
    if payload.as_ptr().align_offset(8) == 0 {
        return decode_aligned(refs, payload);
    }
    let mut words = Word::allocate_zeroed_vec(payload.len().div_ceil(8));
    let bytes = Word::words_to_bytes_mut(&mut words).get_mut(..payload.len()).unwrap_or_default();
    bytes.copy_from_slice(payload);
    decode_aligned(refs, bytes)
}

/// The branch that the known part of any bytes amounts to, `None` where they are none: a body for fuzzing. Total.
pub fn decode_any(refs: &[ChunkId], payload: &[u8]) -> Option<EncodedBranch> {
    decode(refs, payload).and_then(|node| node.encode()).ok()
}

fn decode_aligned(refs: &[ChunkId], payload: &[u8]) -> Result<Node> {
    if !payload.len().is_multiple_of(8) {
        return Err(BranchError::Message(capnp::Error::failed("payload is not whole words".into())));
    }
    let options = ReaderOptions {
        // Every word is visited once, struct lists also for their tags: a message that costs more repeats itself.
        traversal_limit_in_words: Some(payload.len() / 8 * 2 + 16),
        nesting_limit: NESTING_MAX,
    };
    let segments = [payload];
    let message = Reader::new(SegmentArray::new(&segments), options);
    let root = message.get_root::<node::Reader<'_>>()?;
    let refs = Refs(refs);
    match root.which().map_err(capnp::Error::from)? {
        node::Which::Nothing(()) => Err(BranchError::Invalid { at: 0, rule: "a branch must say what it is" }),
        node::Which::Directory(group) => {
            let owners = owners(group.get_owners()?)?;
            Ok(Node::Directory(DirectoryNode::Entries(entries(group.get_entries()?, &owners, refs)?)))
        }
        node::Which::DirectoryInner(list) => Ok(Node::Directory(DirectoryNode::Inner(inner_dirs(list?, refs)?))),
        node::Which::File(list) => {
            let pieces = pieces(list?, LIST_ENTRIES_MAX, refs)?;
            check::pieces(&pieces)?;
            Ok(Node::File(FileNode::Pieces(pieces)))
        }
        node::Which::FileInner(list) => Ok(Node::File(FileNode::Inner(inner_files(list?, refs)?))),
        node::Which::Snapshot(reader) => Ok(Node::Snapshot(Box::new(snapshot(reader?, refs)?))),
    }
}

/// The references of the branch being read.
#[derive(Clone, Copy)]
struct Refs<'a>(&'a [ChunkId]);

impl Refs<'_> {
    fn at(self, position: u32) -> Result<ChunkId> {
        let error = BranchError::Position { position, refs: self.0.len() };
        self.0.get(position as usize).copied().ok_or(error)
    }
}

fn owners(list: struct_list::Reader<'_, owner::Owned>) -> Result<Vec<Owner>> {
    within("owners of a node", list.len() as usize, 2 * LIST_ENTRIES_MAX)?;
    list.iter().map(|owner| Ok(Owner { id: owner.get_id(), name: owner.get_name()?.into() })).collect()
}

fn entries(list: struct_list::Reader<'_, entry::Owned>, owners: &[Owner], refs: Refs<'_>) -> Result<Vec<Entry>> {
    within("entries of a node", list.len() as usize, LIST_ENTRIES_MAX)?;
    let mut entries = Vec::with_capacity(list.len() as usize);
    for (at, reader) in list.iter().enumerate() {
        entries.push(entry(reader, at, owners, refs)?);
    }
    check::entries(&entries)?;
    Ok(entries)
}

fn entry(from: entry::Reader<'_>, at: usize, owners: &[Owner], refs: Refs<'_>) -> Result<Entry> {
    let owner = |position: u16| {
        let error = BranchError::Invalid { at, rule: "an owner must stand in the table" };
        owners.get(usize::from(position)).cloned().ok_or(error)
    };
    let mut meta = Metadata {
        mode: u32::from(from.get_mode()),
        user: owner(from.get_user_owner())?,
        group: owner(from.get_group_owner())?,
        mtime: FileTime { secs: from.get_mtime_secs(), nanos: from.get_mtime_nanos() },
        ..Metadata::default()
    };
    if from.has_extra() {
        read_extra(from.get_extra()?, &mut meta)?;
    }
    Ok(Entry { name: from.get_name()?.into(), meta, what: what(from, at, refs)? })
}

fn what(from: entry::Reader<'_>, at: usize, refs: Refs<'_>) -> Result<What> {
    Ok(match from.which().map_err(capnp::Error::from)? {
        entry::Which::Nothing(()) => {
            return Err(BranchError::Invalid { at, rule: "an entry must say what it is" });
        }
        entry::Which::Inline(bytes) => What::File(Content::Inline(bytes?.into())),
        entry::Which::One(one) => What::File(Content::One { len: one.get_len(), chunk: refs.at(one.get_leaf())? }),
        entry::Which::Pieces(list) => What::File(Content::Pieces(pieces(list?, ENTRY_PIECES_MAX, refs)?)),
        entry::Which::Tree(tree) => What::File(Content::Tree { len: tree.get_len(), root: refs.at(tree.get_node())? }),
        entry::Which::Directory(position) => What::Directory(refs.at(position)?),
        entry::Which::Symlink(target) => What::Symlink(target?.into()),
        entry::Which::CharDevice(device) => What::CharDevice { major: device.get_major(), minor: device.get_minor() },
        entry::Which::BlockDevice(device) => What::BlockDevice { major: device.get_major(), minor: device.get_minor() },
        entry::Which::Fifo(()) => What::Fifo,
        entry::Which::Socket(()) => What::Socket,
    })
}

fn read_extra(from: extra::Reader<'_>, meta: &mut Metadata) -> Result<()> {
    meta.atime = from.get_has_atime().then(|| FileTime { secs: from.get_atime_secs(), nanos: from.get_atime_nanos() });
    meta.link = from.get_has_link().then(|| LinkId { device: from.get_link_device(), inode: from.get_link_inode() });
    meta.xattrs = xattrs(from.get_xattrs()?)?;
    Ok(())
}

fn xattrs(list: struct_list::Reader<'_, xattr::Owned>) -> Result<Vec<Xattr>> {
    // Each takes two pointers at least.
    within("extended attributes of an entry", list.len() as usize, XATTRS_LEN_MAX / 16)?;
    list.iter().map(|xattr| Ok(Xattr { name: xattr.get_name()?.into(), value: xattr.get_value()?.into() })).collect()
}

fn pieces(list: struct_list::Reader<'_, piece::Owned>, max: usize, refs: Refs<'_>) -> Result<Vec<Piece>> {
    within("pieces of a file", list.len() as usize, max)?;
    let read = |piece: piece::Reader<'_>| {
        let chunk = piece.get_leaf().checked_sub(1).map(|position| refs.at(position)).transpose()?;
        Ok(Piece { len: piece.get_len(), chunk })
    };
    list.iter().map(read).collect()
}

fn inner_dirs(list: struct_list::Reader<'_, directory_child::Owned>, refs: Refs<'_>) -> Result<Vec<InnerDir>> {
    within("children of a node", list.len() as usize, LIST_ENTRIES_MAX)?;
    let read = |child: directory_child::Reader<'_>| {
        Ok(InnerDir {
            first_name: child.get_first_name()?.into(),
            last_name: child.get_last_name()?.into(),
            entries: child.get_entries(),
            node: refs.at(child.get_node())?,
        })
    };
    let children: Vec<_> = list.iter().map(read).collect::<Result<_>>()?;
    check::inner_dirs(&children)?;
    Ok(children)
}

fn inner_files(list: struct_list::Reader<'_, file_child::Owned>, refs: Refs<'_>) -> Result<Vec<InnerFile>> {
    within("children of a node", list.len() as usize, LIST_ENTRIES_MAX)?;
    let read = |child: file_child::Reader<'_>| Ok(InnerFile { len: child.get_len(), node: refs.at(child.get_node())? });
    let children: Vec<_> = list.iter().map(read).collect::<Result<_>>()?;
    check::inner_files(&children)?;
    Ok(children)
}

fn snapshot(from: snapshot::Reader<'_>, refs: Refs<'_>) -> Result<Snapshot> {
    let rule = |rule| BranchError::Invalid { at: 0, rule };
    let session = SessionId::from_slice(from.get_session()?).ok_or(rule("a session's id has 16 bytes"))?;
    let parent = match from.get_parent()? {
        [] => None,
        bytes => Some(ChunkId::from_slice(bytes).ok_or(rule("a snapshot's id has 32 bytes"))?),
    };
    let paths = from.get_paths()?.iter().map(|path| Ok(path?.to_vec())).collect::<Result<_>>()?;
    let totals = from.get_totals()?;
    Ok(Snapshot {
        tree: refs.at(from.get_tree())?,
        time: Time(from.get_time()),
        started: Time(from.get_started()),
        host: text(from.get_host()?)?,
        user: text(from.get_user()?)?,
        paths,
        tags: texts(from.get_tags()?)?,
        parent,
        program: text(from.get_program()?)?,
        session,
        partial: from.get_partial(),
        totals: Totals {
            files: totals.get_files(),
            dirs: totals.get_dirs(),
            others: totals.get_others(),
            bytes: totals.get_bytes(),
            errors: totals.get_errors(),
        },
        command: texts(from.get_command()?)?,
        excludes: texts(from.get_excludes()?)?,
    })
}

fn text(from: capnp::text::Reader<'_>) -> Result<String> {
    Ok(from.to_string().map_err(capnp::Error::from)?)
}

// A list of texts is a list of pointers of 8 bytes each, all inside the payload, which bounds what is made of it.
fn texts(list: text_list::Reader<'_>) -> Result<Vec<String>> {
    list.iter().map(|item| text(item?)).collect()
}
