@0xd7f0c51d5b0e6a93;
# What the machines of an office say to each other. docs/protocol.md says of every call who makes it, when, how it is
# tried again and why that does no harm.
#
# A capability is the right to use it: a connection begins with `Bootstrap` and gets further ones only by proof.
# Keys are Ed25519 public keys (32 bytes), ids of frames and chunks 32 bytes, of vaults, sessions, accounts and devices
# 16; lists of ids are concatenated. Times are nanoseconds since 1970, UTC. Readers refuse other lengths.

interface Bootstrap {
  # What everybody has who completed a TLS handshake with a key of their own.

  hello @0 (version :UInt16) -> (version :UInt16, host :Text, time :Int64, program :Text);
  # The protocol version the caller speaks, and the one spoken from here on: the lower of both. The host's name, clock
  # and program.

  join @1 (token :Data, name :Text, machineId :Data) -> (status :Status);
  # Spends a join token for the key of this connection.

  status @2 () -> (status :Status, name :Text, authority :Data);
  # Where the key of this connection stands, and the key of the company's authority.

  node @3 (registration :Registration, copies :Copies) -> (session :NodeSession);
  # For active machines: says that the machine is there, and hands over its store of second copies.

  login @4 (account :Text) -> (challenge :Data, salt :Data, memoryKib :UInt32, passes :UInt32, lanes :UInt32, login :Login);
  # Begins a login. The answer for an account that does not exist looks the same.

  enum Status {
    unknown @0;
    pending @1;
    active @2;
    revoked @3;
  }
}

interface Login {
  # One attempt; its challenge is good once.

  prove @0 (signature :Data, device :Data) -> (session :UserSession, wrappedKey :Data);
  # With the account's login key, or with the key of a device when `device` names one (16 bytes; else empty).
}

struct Registration {
  granted @0 :UInt64;
  # Bytes the owner lets the office use.
  free @1 :UInt64;
  # Bytes free on that disk.
  machineId @2 :Data;
  incarnation @3 :Data;
  # 16 bytes drawn when the store of copies was made.
  run @4 :Data;
  # 16 bytes drawn at every start of the service.
  inventory @5 :Inventory;
  addresses @6 :List(Text);
  version @7 :Text;
  reserve @8 :UInt64;
  # Bytes that the owner wants free on that disk.
  onBattery @9 :Bool;
}

struct Inventory {
  # What a machine holds for others.
  sequence @0 :UInt64;
  frames @1 :UInt64;
  bytes @2 :UInt64;
  digest @3 :Data;
  # 32 bytes, of the set of frame ids, whatever their order.
  trash @4 :UInt64;
  # Bytes set aside, which are freed as soon as the disk is short.
}

interface NodeSession {
  # A machine that is there.

  beat @0 (granted :UInt64, free :UInt64, inventory :Inventory, reserve :UInt64, onBattery :Bool) -> (time :Int64, listed :UInt64);
  # Every five seconds. `listed` is the sequence of the newest list of machines.

  confirm @1 (frames :Data) -> (unknown :Data);
  # These frames were verified and synced here. Those the tracker never heard of come back.

  retract @2 (frames :Data) -> ();
  # These frames are not here any more, or were found bad.

  place @3 (vault :Data) -> (keep :Bool);
  # Whether this machine is to keep what it writes into the vault itself.

  list @4 () -> (list :Data);
  # The machines of the office, signed by the company's authority.
}

interface Copies {
  # A machine's store of second copies, in the hands of the tracker. Nothing here deletes but by an order to set aside.

  upload @0 () -> (upload :Upload);
  settle @1 () -> (frames :Data);
  # Makes what was put durable; the frames that became so.
  read @2 (frame :Data) -> (bytes :Data);
  # Empty where it is not held.
  list @3 (after :Data, count :UInt32) -> (frames :Data);
  # What is held, ascending by id, beginning behind `after` (empty: from the first).
  drop @4 (order :Data) -> (dropped :UInt64);
  # Frames to be set aside, in an order signed by the company's authority.
  prove @5 (frame :Data, nonce :Data, offset :UInt32, len :UInt32) -> (proof :Data);
  # BLAKE3 keyed with the nonce over these bytes of the frame: shows that it is really held.
  has @6 (frames :Data) -> (answers :Data);
  # A byte for each: 1 held.
  scrub @7 (cursor :Data, bytes :UInt64) -> (frames :UInt64, bytes :UInt64, bad :Data, next :Data);
  # Verifies what is held, so many bytes from the cursor on (empty: from the first), now. What is bad is not held any
  # more. `next` is empty at the end.
  away @8 (secs :UInt32) -> ();
  # The host stops on purpose and is back after about so many seconds.
}

interface Upload {
  # A stream of frames. The sender may go on before an answer has come.

  put @0 (frame :Data) -> stream;
  done @1 () -> (frames :UInt64, problem :Text);
  # How many were taken; `problem` is empty when all were. Nothing after a problem was taken.
}

interface UserSession {
  # An account that has shown who it is.

  account @0 () -> (name :Text, id :Data, quota :UInt64, used :UInt64, isAdmin :Bool, publicKey :Data);
  # `publicKey`: what others wrap vaults to; empty until the account has said so.
  vaults @1 () -> (vaults :List(VaultInfo));
  open @2 (vault :Data) -> (vault :Vault);
  # A vault that the account is a member of.
  addDevice @3 (label :Text, key :Data) -> (device :Data);
  # A key with which this account logs in from one machine without a password.
  revokeDevice @4 (device :Data) -> ();
  passwd @5 (loginKey :Data, salt :Data, memoryKib :UInt32, passes :UInt32, lanes :UInt32, wrappedKey :Data) -> ();
  admin @6 () -> (admin :Admin);
  # For administrators.
  addVault @7 (vault :NewVault, members :List(Wrap)) -> ();
  # A vault of its own, and in the same step who else is a member of it.
  companyKey @8 () -> (publicKey :Data);
  accountKey @9 (account :Text) -> (id :Data, name :Text, publicKey :Data);
  # What vaults are wrapped to for an account.
  addMember @10 (vault :Data, wrap :Wrap) -> ();
  # To a shared vault: by its owner; by another member only what opens it for a member whose key is another since.
  removeMember @11 (vault :Data, account :Text) -> ();
  # By the owner of the vault, or by the account itself.
  devices @12 () -> (devices :List(Device));
  setKey @13 (publicKey :Data) -> ();
  # What others wrap vaults to from now on; once.
}

struct Wrap {
  # A vault's secret for an account: sealed under the account's own key, or wrapped to its public key.
  account @0 :Data;
  wrapped @1 :Data;
  vault @2 :Data;
  # Where the call names none.
}

struct Device {
  # A machine from which an account logs in without its password.
  id @0 :Data;
  label @1 :Text;
  added @2 :Int64;
}

struct VaultInfo {
  id @0 :Data;
  name @1 :Text;
  kind @2 :Text;
  # company, private or shared.
  wrapped @3 :Data;
  # Its secret, for this member.
  owner @4 :Text;
  members @5 :List(Text);
  # Names of accounts, the owner's too.
  forCompany @6 :Bool;
  # Whether the company's recovery kit opens it.
}

interface Vault {
  # A vault at the host. The calls are those of the engine's store.

  head @0 () -> (config :Data, keyring :Data, id :Data);
  known @1 (ids :Data) -> (answers :Data);
  # A byte for each id: 1 yes.
  whole @2 (ids :Data) -> (answers :Data);
  places @3 (ids :Data) -> (places :List(Place));
  # A place for each id; `len` 0 says there is none.
  readFrame @4 (place :Place) -> (bytes :Data);
  frames @5 (from :UInt64, count :UInt32) -> (places :List(Place));
  packName @6 (pack :UInt32) -> (name :Text);
  begin @7 (spread :Bool, term :UInt64) -> (session :WriteSession, id :Data);
  # With `spread` no copy of what is written stays on the machine it is written from. `term` is that of `allocate`; 0
  # says nothing. Refused where another has begun since.
  records @8 (from :UInt64) -> (records :List(StoredRecord), more :Bool);
  # From this count on, as many as fit in an answer.
  link @9 () -> (link :Link);
  append @10 (link :Link, record :Data) -> (taken :Bool);
  # Adds a record behind the link, unless another came first.
  unwhole @11 () -> (ids :Data);
  pin @12 (root :Data) -> (pin :Pin);
  # Nothing below this root goes while the capability lives.
  expel @13 (frames :List(Place)) -> (ids :Data);
  # Frames that a reader found bad; the host looks itself before it believes it.
  copies @14 (frame :UInt64) -> (level :UInt8, owed :UInt64, holders :List(Text));
  # How safe everything is up to this frame number: the weakest of it; 2^64-1 for all there is.
  allocate @15 () -> (holder :Data, addresses :List(Text), term :UInt64);
  # Which machine takes first what is written now: its key, where it is reached, and the term in which that holds.
}

interface Pin {}

struct Place {
  number @0 :UInt64;
  frame @1 :Data;
  pack @2 :UInt32;
  len @3 :UInt32;
  offset @4 :UInt64;
  kind @5 :UInt8;
  position @6 :UInt16;
  isBelieved @7 :Bool;
}

struct Link {
  # Where the next record stands in the chain.
  count @0 :UInt64;
  previous @1 :Data;
  received @2 :Int64;
  # The time the record is to carry: the host's.
  ripe @3 :UInt64;
  # In answers: what records up to this count forgot was forgotten long enough ago, by the time the host has run, to go.
}

struct StoredRecord {
  count @0 :UInt64;
  name @1 :Text;
  bytes @2 :Data;
  problem @3 :Text;
  # Why the bytes cannot be read; empty when they can.
}

interface WriteSession {
  # A writer's run. It ends when the last capability to it goes.

  claim @0 (ids :Data) -> (claims :Data);
  # A byte for each id: 0 known, 1 in flight, 2 the caller's to put.
  upload @1 () -> (upload :Upload);
  checkpoint @2 () -> ();
  settle @3 (root :Data) -> (missing :Data);
  # Empty when all below the root is there and durable.
  publish @4 (root :Data, link :Link, record :Data) -> (taken :Bool);
  # Adds the record of a root this session has settled.
  healed @5 () -> (ids :Data);
}

interface Admin {
  # What an administrator may do.

  addUser @0 (user :NewUser, vault :NewVault) -> (id :Data);
  users @1 () -> (users :List(User));
  disableUser @2 (account :Text, on :Bool) -> ();
  quota @3 (account :Text, bytes :UInt64) -> ();
  addVault @4 (vault :NewVault) -> ();
  token @5 (name :Text, secs :UInt32, auto :Bool) -> (token :Text);
  nodes @6 () -> (nodes :List(NodeInfo));
  approve @7 (name :Text) -> ();
  revoke @8 (name :Text) -> ();
  forget @9 (name :Text, giveUpData :Bool) -> ();
  # Refused, unless `giveUpData`, where the machine has the only copy of what is lost at the host.
  drain @10 (name :Text, on :Bool) -> ();
  copies @11 () -> (vaults :List(VaultCopies));
  why @12 (frame :Data) -> (text :Text);
  audit @13 (from :UInt64, count :UInt32) -> (entries :List(AuditEntry));
  status @14 () -> (status :HostStatus);
  companyKey @15 () -> (publicKey :Data);
  scrub @16 () -> (report :ScrubReport);
  # Verifies everything at the host and at every machine that is there, and heals what can be healed.
  collect @17 () -> (bytes :UInt64, frames :UInt64, copies :UInt64, problems :List(Text));
  # Frees what nothing needs any more.
  giveUp @18 () -> ();
  # Those terminals that are missing now, so many that nothing was decided of them, do not come back.
  stop @19 (planned :Bool, secs :UInt32) -> (heard :UInt32, there :UInt32);
  # Ends the host in order; when planned, machines are told that it is back after so many seconds. On the host alone.
  clockIsRight @20 () -> (from :Int64, to :Int64);
  # The host's clock is right as it stands, though it went from one time to another at once; both 0 if it did not.
  devices @21 (account :Text) -> (devices :List(Device));
  revokeDevice @22 (account :Text, device :Data) -> ();
  vaults @23 () -> (vaults :List(VaultInfo));
  # All there are, without any secret.
  removeMember @24 (vault :Data, account :Text) -> ();
  recovery @25 () -> (challenge :Data, proof :RecoveryProof);
  # For who has the company's recovery kit as well: 32 bytes, wrapped to the company's key.
}

interface RecoveryProof {
  # One attempt to show that the kit is at hand.

  prove @0 (answer :Data) -> (recovery :Recovery);
  # A hash of the bytes that were wrapped.
}

interface Recovery {
  # What who has the recovery kit may do. Each use is an entry of the log.

  vaults @0 (account :Text) -> (account :Data, name :Text, publicKey :Data, vaults :List(CompanyVault));
  # Those an account is a member of, or all where none is named.
  open @1 (vault :Data) -> (vault :Vault);
  # For reading.
  reset @2 (account :Data, password :Password, publicKey :Data, wraps :List(Wrap)) -> ();
  # Another password and another key for an account, its vaults sealed under that key. All its devices are revoked.
  addMember @3 (vault :Data, wrap :Wrap) -> ();
  # To a shared vault.
}

struct CompanyVault {
  info @0 :VaultInfo;
  companyWrap @1 :Data;
  # Its secret, wrapped to the company's key; empty where the company cannot open it.
}

struct Password {
  # What a password is tried against, and what it opens.
  loginKey @0 :Data;
  salt @1 :Data;
  memoryKib @2 :UInt32;
  passes @3 :UInt32;
  lanes @4 :UInt32;
  wrappedKey @5 :Data;
}

struct NewUser {
  name @0 :Text;
  id @1 :Data;
  loginKey @2 :Data;
  salt @3 :Data;
  memoryKib @4 :UInt32;
  passes @5 :UInt32;
  lanes @6 :UInt32;
  wrappedKey @7 :Data;
  quota @8 :UInt64;
  isAdmin @9 :Bool;
  publicKey @10 :Data;
  # What others wrap vaults to.
}

struct NewVault {
  id @0 :Data;
  name @1 :Text;
  kind @2 :Text;
  owner @3 :Text;
  # Account name.
  config @4 :Data;
  keyring @5 :Data;
  # As the member made them: the host sees no key.
  companyWrap @6 :Data;
  # The vault's secret wrapped to the company's recovery key; empty for a private vault.
  wrapped @7 :Data;
  # The same wrapped to the owner's key.
}

struct User {
  name @0 :Text;
  quota @1 :UInt64;
  used @2 :UInt64;
  disabled @3 :Bool;
  isAdmin @4 :Bool;
  devices @5 :UInt32;
}

struct NodeInfo {
  name @0 :Text;
  key @1 :Data;
  status @2 :Text;
  # pending, active, revoked, forgotten.
  presence @3 :Text;
  # online, suspect, offline.
  granted @4 :UInt64;
  used @5 :UInt64;
  free @6 :UInt64;
  frames @7 :UInt64;
  draining @8 :Bool;
  lastSeen @9 :Int64;
  version @10 :Text;
  note @11 :Text;
  address @12 :Text;
  # From where it is connected; empty while it is not.
  machineId @13 :Data;
  joined @14 :Int64;
  proven @15 :Int64;
  # When it last showed that it holds what it was asked for; 0 for not since the host started.
  onTheirWay @16 :UInt32;
  # Frames that are being sent to it.
  hoursMissed @17 :UInt32;
  # Of the hours that count, since it was last there.
  givenUp @18 :Bool;
  # It was away for too long: its copies are made elsewhere.
  failures @19 :UInt32;
  # How often it did not do what it was asked, or said what is not so, and has not made up for it.
  restsUntil @20 :Int64;
  # It is given nothing until then because of that; 0 where it is.
}

struct VaultCopies {
  vault @0 :Data;
  name @1 :Text;
  owner @2 :Text;
  bytes @3 :UInt64;
  owedFrames @4 :UInt64;
  owedBytes @5 :UInt64;
  why @6 :Text;
  # Why the first of them has no second place yet; empty when it is on its way.
  kind @7 :Text;
  # company, private or shared.
}

struct AuditEntry {
  sequence @0 :UInt64;
  time @1 :Int64;
  actor @2 :Text;
  what @3 :Text;
}

struct ScrubReport {
  frames @0 :UInt64;
  # Verified, here and there.
  bytes @1 :UInt64;
  bad @2 :UInt64;
  # Frames of the host that are bad, old ones too.
  healed @3 :UInt64;
  # Of those, frames that got their bytes again from another machine.
  machines @4 :UInt32;
  # Machines that verified what they hold.
  copiesBad @5 :UInt64;
  # Copies that were bad; they are made again.
  silent @6 :List(Text);
  # Machines that are a part of the office and did not answer.
}

struct HostStatus {
  name @0 :Text;
  address @1 :Text;
  generation @2 :UInt64;
  free @3 :UInt64;
  total @4 :UInt64;
  connections @5 :UInt32;
  vaults @6 :UInt32;
  frames @7 :UInt64;
  owedFrames @8 :UInt64;
  question @9 :Text;
  # What an administrator has to decide; empty when nothing.
  reserve @10 :UInt64;
  # Bytes of its disk that new backups leave free.
  troubles @11 :List(Trouble);
}

struct Trouble {
  # Something an administrator should know of.
  about @0 :Text;
  # disk, log, vaults, question or threads.
  serious @1 :Bool;
  # Something does not work because of it, or is not decided.
  text @2 :Text;
}

interface Local {
  # What a machine's own service gives to programs on the same machine, on a local socket.

  tracker @0 () -> (bootstrap :Bootstrap, hostKey :Data, nodeKey :Data);
  # The tracker's bootstrap, as this machine reaches it.
  keep @1 (vault :Data) -> (keeper :Keeper);
  # The machine's own store of copies, for what is written here.
  status @2 () -> (status :LocalStatus);
  admin @3 () -> (admin :Admin);
  # On the host alone: whoever may open its socket administers the office.
}

struct LocalStatus {
  name @0 :Text;
  connected @1 :Bool;
  trouble @2 :Text;
  # How it stands with the line to the host, in words.
  frames @3 :UInt64;
  bytes @4 :UInt64;
  trash @5 :UInt64;
  granted @6 :UInt64;
  version @7 :Text;
  # Of the service's program.
  hosts @8 :List(Text);
  # Where the host is looked for; at the host, where machines are told to look.
  hostKey @9 :Data;
  free @10 :UInt64;
  # Bytes free on the disk of the service's folder.
  awayUntil @11 :Int64;
  # The host said that it is away until then; 0 where it did not, or is here.
}

interface Keeper {
  # Takes what a writer on this machine sends to the host, so that the second copy needs no sending.

  upload @0 () -> (upload :Upload);
  settle @1 () -> (frames :UInt64);
  # Durable here, and told to the tracker.
}
