@0xada43239f6906405;
# What a vault says of itself: the payloads of config, keyring and ref records.
#
# Written in canonical form. New fields go to the end and mean what they meant before they existed when zero.
# Bytes fields have the fixed lengths given; readers refuse others. Times are nanoseconds since 1970, UTC.

struct Config {
  # How a vault was made. The vault's id stands in the record around it.

  formatVersion @0 :UInt32;
  created @1 :Int64;

  cutMin @2 :UInt32;
  cutAvg @3 :UInt32;
  cutMax @4 :UInt32;
  # Leaf lengths in bytes: never shorter except at a file's end, wished for, never longer.
  cutNormalization @5 :UInt8;
  # How sharply lengths gather around cutAvg: 0 to 3.

  suite @6 :UInt8;
  # Cipher of new frames: 0 none, 1 AES-256-GCM, 2 ChaCha20-Poly1305. 0 means the whole vault is unencrypted.
  compressionLevel @7 :UInt8;
  # zstd, 1 to 19.
  retentionDaysMin @8 :UInt32;
  # No snapshot received within so many days may be forgotten.
  undeleteDays @9 :UInt32;
  # For so many days what was forgotten can be brought back.
  cutCoarse @10 :UInt8;
  # Leaves of what looks random are 2^cutCoarse times as long.
}

struct Keyring {
  # Ways to the vault's secret, and the key pairs data keys are wrapped to.

  check @0 :Data;
  # 32 bytes derived from the secret: tells whether a secret is this vault's.
  slots @1 :List(Slot);
  pairs @2 :List(KeyPair);
  # By ascending generation, from 0, without gaps.
  devices @3 :List(Device);
  # Machines that may write and not read.
}

struct Slot {
  # The vault's secret sealed under one way to open it.

  id @0 :Data;
  # 8 random bytes.
  created @1 :Int64;
  label @2 :Text;
  sealed @3 :Data;
  # Salt (24 bytes), then the 32-byte secret encrypted with AES-256-GCM, then the tag (16 bytes).

  kind :union {
    unknown @4 :Void;
    password :group {
      memoryKib @5 :UInt32;
      passes @6 :UInt32;
      lanes @7 :UInt32;
      # Cost of Argon2id version 0x13.
      salt @8 :Data;
      # 16 bytes.
    }
    machineKey @9 :Void;
    # A 32-byte key in a file.
  }
}

struct KeyPair {
  # One generation of the X25519 key pair that data keys are wrapped to.

  generation @0 :UInt16;
  created @1 :Int64;
  publicKey @2 :Data;
  # 32 bytes.
  sealedSecret @3 :Data;
  # Empty for generation 0, which follows from the vault's secret. Else salt (24 bytes), the 32-byte secret key
  # encrypted with AES-256-GCM under the keyring key, tag (16 bytes).
}

struct Device {
  # A machine that backs up without being able to open what is in the vault.

  id @0 :Data;
  # 8 random bytes.
  created @1 :Int64;
  label @2 :Text;
  generation @3 :UInt16;
  # The key pair that its data keys are wrapped to.
  refusedFrom @4 :UInt64;
  # Records of it are believed up to the one before this; 0 while it may write.
}

struct Ref {
  # A name for a branch.

  kind @0 :RefKind;
  level @1 :UInt8;
  # Copies when it was acknowledged: 0, 1 or 2 for P0, P1, P2.
  sessionStarted @2 :Int64;
  target @3 :Data;
  # Chunk id of the branch, 32 bytes.
  session @4 :Data;
  # The session that wrote it, 16 bytes.
  device @5 :Data;
  # The device whose key made the record's MAC, 8 bytes; empty for a member.
}

enum RefKind {
  unknown @0;
  snapshot @1;
  partialSnapshot @2;
  # A checkpoint of a backup that did not end; never the latest snapshot.
}

struct Change {
  # Something said of records that stand before this one in the chain.

  records @0 :List(UInt64);
  # Their counts, strictly ascending. Empty where the change is about the vault as a whole.
  note @1 :Text;
  # Why, in words: a policy, a repair, a person.

  union {
    unknown @2 :Void;
    forget :group {
      # These snapshots are no longer wanted. What they hold stays until they are purged.
      undeleteDays @3 :UInt32;
      # For so many days they can be brought back.
    }
    undelete @4 :Void;
    # These snapshots are wanted again. No effect on what was purged before.
    purge @5 :Void;
    # These snapshots hold nothing back any more, for ever.
    pin @6 :Void;
    # No policy forgets these.
    unpin @7 :Void;
    tag :group {
      # First the tags of `remove` go, then those of `add` come.
      add @8 :List(Text);
      remove @9 :List(Text);
    }
    setAside @10 :Void;
    # What is unreadable of these is known and stops nothing. What is readable below them stays.
    clockIsRight @11 :Void;
    # The jump of the clock that shows before this record is real. About no record.
    retain :group {
      # From here on every snapshot is kept at least so long. Never shorter than before. About no record.
      daysMin @12 :UInt32;
      # Days after it was received.
    }
  }
}
