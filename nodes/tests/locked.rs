//! What was forgotten goes only after a month by the clock and by the time the host has run; and a clock that leaps stops
//! that until an administrator has looked.

mod office;

use office::{Account, Mill, Office, Wire, begin, open, put, run, soon};
use std::sync::Arc;
use std::time::Duration;
use twinkeep_engine::env::{Env, Inline, ManualClock, SeededEntropy, Time};
use twinkeep_engine::record::{ChangeKind, ChangeRecord, Level, Record, RecordKind, RefKind, RefRecord};
use twinkeep_engine::store::ChainLink;
use twinkeep_nodes::host::collector;
use twinkeep_nodes::remote::wire::{get_link, put_link};
use twinkeep_nodes::transport::problem::Problem;
use twinkeep_schema::office_capnp::{admin, vault};

const DAY: Duration = Duration::from_secs(86_400);
const START: i64 = 1_800_000_000_000_000_000;

fn env(clock: &Arc<ManualClock>, seed: u64) -> Env {
    Env { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(seed)), executor: Arc::new(Inline) }
}

/// A member of a vault, at one connection.
struct Member {
    account: Account,
    vault: vault::Client,
    _wire: Wire,
}

impl Member {
    async fn log_in(office: &Office, account: Account) -> Self {
        let wire = office.dial(&office::key(7)).await;
        let session = office.login(&wire.bootstrap, wire.key, &account).await.unwrap();
        let vault = open(&session, account.vault).await.unwrap();
        Self { account, vault, _wire: wire }
    }

    fn leave(self) -> Account {
        self.account
    }

    async fn link(&self) -> (ChainLink, u64) {
        let answer = soon(self.vault.link_request().send().promise).await.unwrap();
        let link = answer.get().unwrap().get_link().unwrap();
        (get_link(link).unwrap(), link.get_ripe())
    }

    async fn ripe(&self) -> u64 {
        self.link().await.1
    }

    /// The next record of the chain.
    async fn record(&self, kind: RecordKind, payload: Vec<u8>) -> Record {
        let (ChainLink { count, previous, received }, _) = self.link().await;
        Record { kind, vault: self.account.vault, count, received: received.unwrap(), previous, payload }
    }

    /// Makes a snapshot; its record.
    async fn snapshot(&self, office: &Office) -> u64 {
        let (write, id) = begin(&self.vault).await.unwrap();
        let mut mill = Mill::new(&office.env, &self.account, self.account.vault, id);
        let (leaf, frame) = mill.leaf(b"content");
        let (root, branch) = mill.branch(&[leaf], b"root");
        put(&write, &[frame.bytes, branch.bytes]).await.unwrap();
        let mut request = write.settle_request();
        request.get().set_root(&root.0);
        soon(request.send().promise).await.unwrap();
        let reference = RefRecord {
            kind: RefKind::Snapshot,
            target: root,
            session: id,
            level: Level::P1,
            session_started: Time(START),
            device: None,
        };
        let record = self.record(RecordKind::Ref, reference.encode()).await;
        let mut request = write.publish_request();
        request.get().set_root(&root.0);
        request.get().set_record(&self.sealed(&record));
        put_link(&link_of(&record), record.received, request.get().init_link());
        assert!(soon(request.send().promise).await.unwrap().get().unwrap().get_taken());
        record.count
    }

    /// Says something of a record.
    async fn say(&self, count: u64, kind: ChangeKind) -> Result<u64, Problem> {
        let records = if kind == ChangeKind::ClockIsRight { Vec::new() } else { vec![count] };
        let change = ChangeRecord { records, note: String::new(), kind };
        let record = self.record(RecordKind::Change, change.encode()).await;
        let mut request = self.vault.append_request();
        request.get().set_record(&self.sealed(&record));
        put_link(&link_of(&record), record.received, request.get().init_link());
        assert!(soon(request.send().promise).await?.get()?.get_taken());
        Ok(record.count)
    }

    fn sealed(&self, record: &Record) -> Vec<u8> {
        record.encode(&|bytes| self.account.keys.record_mac(bytes))
    }
}

fn link_of(record: &Record) -> ChainLink {
    ChainLink { count: record.count, previous: record.previous, received: Some(record.received) }
}

const FORGET: ChangeKind = ChangeKind::Forget { undelete_days: 30 };

/// Days pass, and the host looks at each.
fn pass(office: &Office, clock: &ManualClock, days: u32) {
    for _ in 0..days {
        clock.advance(DAY);
        office.host.hours.save(&office.env);
        office.host.hours.note(&office.env, &office.host.vaults()).unwrap();
    }
}

fn refused(outcome: Result<u64, Problem>, expected: &str) {
    let problem = outcome.expect_err(expected);
    assert!(problem.text.contains(expected), "{}", problem.text);
}

#[test]
fn a_month_in_which_the_host_was_off_is_no_month() {
    let (account, left, snapshot, forget) = run(|| async {
        let clock = Arc::new(ManualClock::new(Time(START)));
        let office = Office::start_with(env(&clock, 1)).await;
        office.machine("pc", 7, false);
        let member = Member::log_in(&office, office.account("anna", 2, false)).await;
        let snapshot = member.snapshot(&office).await;
        refused(member.say(snapshot, FORGET).await, "minimum retention");
        pass(&office, &clock, 31);
        let forget = member.say(snapshot, FORGET).await.unwrap();
        (member.leave(), office.leave(), snapshot, forget)
    });
    run(|| async move {
        // Off for 31 days: by the clock the window is over.
        let clock = Arc::new(ManualClock::new(Time(START + 62 * 86_400_000_000_000)));
        let office = Office::again(left, env(&clock, 2)).await;
        let member = Member::log_in(&office, account).await;
        assert_eq!(office.host.hours.question(&office.env), None, "a host may be off");
        assert!(member.ripe().await < forget);
        refused(member.say(snapshot, ChangeKind::Purge).await, "has not run for 30 days");
        assert_eq!(collector::collect(&office.host).await.problems, [""; 0]);
        pass(&office, &clock, 29);
        refused(member.say(snapshot, ChangeKind::Purge).await, "has not run for 30 days");
        pass(&office, &clock, 2);
        assert!(member.ripe().await >= forget);
        member.say(snapshot, ChangeKind::Purge).await.unwrap();
    });
}

#[test]
fn a_clock_that_leaps_stops_all_removal_until_it_is_confirmed() {
    let clock = Arc::new(ManualClock::new(Time(START)));
    let (account, left, snapshot) = run(|| async {
        let office = Office::start_with(env(&clock, 1)).await;
        office.machine("pc", 7, false);
        let member = Member::log_in(&office, office.account("anna", 2, false)).await;
        let snapshot = member.snapshot(&office).await;
        clock.set(Time(START + 40 * 86_400_000_000_000));
        // Without it, the snapshot of a moment ago would be forty days old.
        refused(member.say(snapshot, FORGET).await, "went ahead by 40 days");
        refused(member.say(snapshot, ChangeKind::ClockIsRight).await, "went ahead by 40 days");
        member.say(snapshot, ChangeKind::Pin).await.unwrap();
        member.say(snapshot, ChangeKind::Unpin).await.unwrap();
        let freed = collector::collect(&office.host).await;
        assert_eq!((freed.frames, freed.problems.len()), (0, 1));
        (member.leave(), office.leave(), snapshot)
    });
    run(|| async {
        // It stays so when the host starts again, and when the clock is put right by itself.
        let office = Office::again(left, env(&clock, 2)).await;
        clock.set(Time(START + 86_400_000_000_000));
        let member = Member::log_in(&office, account).await;
        refused(member.say(snapshot, FORGET).await, "went ahead by 40 days");

        let admin = admin(&office).await;
        let answer = soon(admin.status_request().send().promise).await.unwrap();
        let question = answer.get().unwrap().get_status().unwrap().get_question().unwrap().to_string().unwrap();
        assert!(question.contains("clock-is-right"), "{question}");
        let answer = soon(admin.clock_is_right_request().send().promise).await.unwrap();
        let answer = answer.get().unwrap();
        assert_eq!((answer.get_from(), answer.get_to()), (START, START + 40 * 86_400_000_000_000));
        let answer = soon(admin.clock_is_right_request().send().promise).await.unwrap();
        let answer = answer.get().unwrap();
        assert_eq!((answer.get_from(), answer.get_to()), (0, 0), "there is nothing to say any more");

        refused(member.say(snapshot, FORGET).await, "minimum retention");
        // The vault's records went ahead and back; a member says that they may be believed.
        member.say(snapshot, ChangeKind::ClockIsRight).await.unwrap();
        assert_eq!(collector::collect(&office.host).await.problems, [""; 0]);
        let mut told = admin.audit_request();
        told.get().set_count(1000);
        let answer = soon(told.send().promise).await.unwrap();
        let entries = answer.get().unwrap().get_entries().unwrap();
        let told =
            entries.iter().filter(|entry| entry.get_what().unwrap().to_str().unwrap().contains("clock is right"));
        assert_eq!(told.count(), 1);
    });
}

async fn admin(office: &Office) -> admin::Client {
    let local = office.local().await;
    let answer = soon(local.admin_request().send().promise).await.unwrap();
    answer.get().unwrap().get_admin().unwrap()
}
