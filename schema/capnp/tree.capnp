@0xd4f2a8f7a1c36b59;
# The payload of a branch chunk. A branch is two things: references to its children (chunk ids, in the clear, each
# once, in order of first use) and this message, sealed. The message names a child by its position in the references.
#
# The message is in canonical form: one segment, no framing header, preorder, trailing zeros cut off. The branch's id
# covers it, so equal values are equal bytes. A later version may add fields; zero must then mean what no field means.

struct Node {
  # What stands in a branch chunk: exactly one of these.
  union {
    nothing @0 :Void;
    # Refused: so that a message of zeros means nothing.

    directory :group {
      # The last level of a directory: the names themselves. Both lists are null in an empty directory.
      owners @1 :List(Owner);
      # Who owns the entries, each once, in order of first use (an entry's user before its group).
      entries @2 :List(Entry);
      # Strictly ascending by the bytes of the name.
    }

    directoryInner @3 :List(DirectoryChild);
    # An upper level of a long directory, ascending, ranges disjoint.

    file @4 :List(Piece);
    # The last level of a long file: its pieces in file order, without gaps.

    fileInner @5 :List(FileChild);
    # An upper level of a long file, in file order.

    snapshot @6 :Snapshot;
    # The root of a snapshot.
  }
}

struct Owner {
  # A user or a group on the machine backed up.
  id @0 :UInt32;
  # uid or gid.
  name @1 :Data;
  # Its name there; null when it had none.
}

struct Entry {
  # One name in a directory.
  name @0 :Data;
  # One path component: not empty, no '/', no NUL, not '.' or '..'.
  mode @1 :UInt16;
  # Permission bits with set-uid, set-gid and sticky: 0o7777 at most.
  userOwner @2 :UInt16;
  # Position of the user in the node's owners.
  groupOwner @3 :UInt16;
  # Position of the group in the node's owners.
  mtimeSecs @4 :Int64;
  # Last change of content, seconds since 1970-01-01T00:00:00Z …
  mtimeNanos @5 :UInt32;
  # … and nanoseconds after that second, below 10^9.

  union {
    nothing @6 :Void;
    # Refused, as in Node.

    inline @7 :Data;
    # A regular file and all of its bytes, at most 256; of length 0 for an empty file.

    one :group {
      # A regular file that is one leaf.
      len @8 :UInt64;
      # Bytes, at least 1.
      leaf @9 :UInt32;
      # Position of the leaf.
    }

    pieces @10 :List(Piece);
    # A regular file of a few pieces, in file order, without gaps.

    tree :group {
      # A regular file of many pieces.
      len @11 :UInt64;
      # Bytes, at least 1.
      node @12 :UInt32;
      # Position of the root of its list of pieces, a file branch.
    }

    directory @13 :UInt32;
    # A folder: position of the root of its list of entries, a directory branch.

    symlink @14 :Data;
    # A symbolic link: the bytes it points to, not empty, no NUL.

    charDevice :group {
      # A character device.
      major @15 :UInt32;
      minor @16 :UInt32;
    }

    blockDevice :group {
      # A block device.
      major @17 :UInt32;
      minor @18 :UInt32;
    }

    fifo @19 :Void;
    # A named pipe.

    socket @20 :Void;
    # A socket.
  }

  extra @21 :Extra;
  # What few entries have; null where there is nothing to say.
}

struct Extra {
  hasAtime @0 :Bool;
  # Whether the time of the last read was kept.
  hasLink @1 :Bool;
  # Whether the file had several names; never for a directory.
  atimeNanos @2 :UInt32;
  # Nanoseconds after atimeSecs, below 10^9; 0 without atime.
  atimeSecs @3 :Int64;
  # Last read, seconds since 1970; 0 without atime.
  linkDevice @4 :UInt64;
  # Device number that the names of one file share; 0 without link.
  linkInode @5 :UInt64;
  # Inode number that the names of one file share; 0 without link.
  xattrs @6 :List(Xattr);
  # Extended attributes, strictly ascending by name; null for none.
}

struct Xattr {
  name @0 :Data;
  # Full name with its namespace, not empty, no NUL.
  value @1 :Data;
  # Null when empty.
}

struct Piece {
  # A stretch of a file.
  len @0 :UInt64;
  # Bytes, at least 1.
  leaf @1 :UInt32;
  # 0: a hole, which reads as zeros. Otherwise 1 + position of the leaf, whose plaintext is exactly `len` long.
}

struct DirectoryChild {
  # A node of the level below.
  firstName @0 :Data;
  # Smallest name under it.
  lastName @1 :Data;
  # Largest name under it.
  entries @2 :UInt64;
  # Names under it, at least 1.
  node @3 :UInt32;
  # Position of the node.
}

struct FileChild {
  # A node of the level below.
  len @0 :UInt64;
  # Bytes of the file under it, at least 1.
  node @1 :UInt32;
  # Position of the node.
}

struct Snapshot {
  # All times are nanoseconds since 1970-01-01T00:00:00Z.
  tree @0 :UInt32;
  # Position of the root of the top directory.
  partial @1 :Bool;
  # A checkpoint of a backup that had not come to its end.
  time @2 :Int64;
  # When the backup finished reading, by the clock of the machine backed up.
  started @3 :Int64;
  # When it began.
  session @4 :Data;
  # 16 bytes: the session that wrote it.
  parent @5 :Data;
  # 32 bytes: id of the snapshot it was compared with, or null. Not a child: a snapshot does not keep its parent alive.
  host @6 :Text;
  # Name of the machine backed up.
  user @7 :Text;
  # Name of the user who ran the backup.
  program @8 :Text;
  # Name and version of the program.
  paths @9 :List(Data);
  # What was asked to be backed up, as given.
  tags @10 :List(Text);
  # Words to find it by.
  command @11 :List(Text);
  # Arguments of the program, secrets left out.
  excludes @12 :List(Text);
  # Patterns of what was left out.
  totals @13 :Totals;
  # What stands in the tree.
}

struct Totals {
  files @0 :UInt64;
  # Regular files.
  dirs @1 :UInt64;
  # Directories.
  others @2 :UInt64;
  # Symbolic links, devices, pipes, sockets.
  bytes @3 :UInt64;
  # Sum of the lengths of the regular files.
  errors @4 :UInt64;
  # Files and directories that could not be read.
}
