@0xe215b551752788ff;
# What an office knows of itself: payloads of its change log, and its list of machines.
#
# Written in canonical form. New fields go to the end and mean what they meant before they existed when zero.
# Bytes fields have the fixed lengths given; readers refuse others. Times are nanoseconds since 1970, UTC.
# Keys of machines, logins and devices are Ed25519 public keys, 32 bytes; ids of accounts, vaults and devices 16 bytes.

struct Event {
  # Something that happened to the office. Each is an entry of the log.

  union {
    unknown @0 :Void;
    nodeTokenMade @1 :NodeToken;
    # Somebody may join.
    nodeJoined @2 :NodeJoined;
    nodeApproved @3 :Data;
    # Key of a machine that was pending.
    nodeRevoked @4 :Data;
    # This key is never trusted again.
    nodeForgotten @5 :Data;
    # The machine with this key does not come back; what it held counts no more.
    nodeDraining @6 :NodeSwitch;
    # What it holds is moved elsewhere.
    nodeGrant @7 :NodeGrant;
    standbyAppointed @8 :NodeSwitch;
    accountMade @9 :AccountMade;
    accountPassword @10 :AccountPassword;
    accountDisabled @11 :AccountSwitch;
    accountQuota @12 :AccountQuota;
    deviceAdded @13 :DeviceAdded;
    deviceRevoked @14 :DeviceRevoked;
    vaultMade @15 :VaultMade;
    vaultMember @16 :VaultMember;
    audit @17 :Audit;
    together @18 :List(Event);
    # All of these in one step, or none. None of them is of this kind.
    devicesRevoked @19 :Data;
    # All devices that this account has now are never trusted again.
    accountKey @20 :AccountKey;
  }
}

struct NodeToken {
  name @0 :Text;
  tokenHash @1 :Data;
  # 32 bytes.
  expires @2 :Int64;
  auto @3 :Bool;
  # Who joins with it need not be approved.
}

struct NodeJoined {
  name @0 :Text;
  key @1 :Data;
  machineId @2 :Data;
  # 16 bytes.
  tokenHash @3 :Data;
  pending @4 :Bool;
}

struct NodeSwitch {
  key @0 :Data;
  on @1 :Bool;
}

struct NodeGrant {
  key @0 :Data;
  bytes @1 :UInt64;
}

struct Login {
  # What a password is tried against. Follows from the password by Argon2id.

  loginKey @0 :Data;
  salt @1 :Data;
  # 16 bytes.
  memoryKib @2 :UInt32;
  passes @3 :UInt32;
  lanes @4 :UInt32;
  wrappedKey @5 :Data;
  # The account's key, sealed under what also follows from the password.
}

struct AccountMade {
  id @0 :Data;
  name @1 :Text;
  login @2 :Login;
  quota @3 :UInt64;
  # Bytes; 0 for none.
  isAdmin @4 :Bool;
}

struct AccountPassword {
  id @0 :Data;
  login @1 :Login;
}

struct AccountKey {
  id @0 :Data;
  key @1 :Data;
  # X25519 public key, 32 bytes: what others wrap vaults to, for this account.
}

struct AccountSwitch {
  id @0 :Data;
  on @1 :Bool;
}

struct AccountQuota {
  id @0 :Data;
  bytes @1 :UInt64;
}

struct DeviceAdded {
  account @0 :Data;
  device @1 :Data;
  label @2 :Text;
  key @3 :Data;
}

struct DeviceRevoked {
  account @0 :Data;
  device @1 :Data;
}

struct VaultMade {
  vault @0 :Data;
  owner @1 :Data;
  name @2 :Text;
  kind @3 :VaultKind;
  companyWrap @4 :Data;
  # The vault's secret wrapped to the company's recovery key. Empty where the company cannot read.
}

enum VaultKind {
  unknown @0;
  company @1;
  private @2;
  shared @3;
}

struct VaultMember {
  vault @0 :Data;
  account @1 :Data;
  on @2 :Bool;
  wrapped @3 :Data;
  # The vault's secret wrapped to the account's key. Empty when somebody leaves.
}

struct Audit {
  kind @0 :AuditKind;
  account @1 :Data;
  # Empty for none.
  node @2 :Data;
  # Empty for none.
  text @3 :Text;
}

enum AuditKind {
  unknown @0;
  login @1;
  loginFailed @2;
  restore @3;
  keyUse @4;
  delete @5;
  other @6;
}

struct NodeList {
  # Whom the machines of an office speak to.

  nodes @0 :List(ListedNode);
  # Strictly ascending by key.
}

struct ListedNode {
  key @0 :Data;
  name @1 :Text;
  role @2 :NodeRole;
  revoked @3 :Bool;
}

enum NodeRole {
  unknown @0;
  host @1;
  terminal @2;
  standby @3;
}
