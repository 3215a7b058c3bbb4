//! What somebody who is logged in can have the host keep for them: capabilities without end, chunks that are claimed and
//! never put. Others on the same machine notice nothing.

mod office;

use capnp::capability::Promise;
use office::{Account, Mill, Office, Wire, begin, open, put, run, soon, until, upload};
use twinkeep_engine::limits::CLAIMS_MAX;
use twinkeep_nodes::transport::limits::{HELD_PER_ACCOUNT_MAX, IDS_MAX, SESSIONS_PER_ACCOUNT_MAX};
use twinkeep_nodes::transport::problem::{Problem, Why};
use twinkeep_schema::office_capnp::user_session;

/// Two accounts on one machine, by one connection.
struct Two {
    office: Office,
    wire: Wire,
    anna: Account,
    boris: Account,
    greedy: user_session::Client,
}

impl Two {
    async fn begin() -> Self {
        let office = Office::start().await;
        let (anna, boris) = (office.account("anna", 101, true), office.account("boris", 102, false));
        let wire = office.dial(&office.machine("pc", 1, false)).await;
        let greedy = office.login(&wire.bootstrap, wire.key, &anna).await.unwrap();
        Self { office, wire, anna, boris, greedy }
    }

    /// The other one backs up.
    async fn works(&self) {
        let session = self.office.login(&self.wire.bootstrap, self.wire.key, &self.boris).await.unwrap();
        let vault = open(&session, self.boris.vault).await.unwrap();
        let (write, id) = begin(&vault).await.unwrap();
        let (_, frame) = Mill::new(&self.office.env, &self.boris, self.boris.vault, id).leaf(b"content");
        assert_eq!(put(&write, &[frame.bytes]).await.unwrap(), 1);
        soon(write.checkpoint_request().send().promise).await.unwrap();
    }
}

/// Asks again and again and keeps what comes. Gives how often it did, and why not any more.
async fn keep<T>(max: usize, mut ask: impl AsyncFnMut() -> Result<T, Problem>) -> (Vec<T>, Option<Problem>) {
    let mut kept = Vec::new();
    while kept.len() < max {
        match ask().await {
            Ok(more) => kept.push(more),
            Err(problem) => return (kept, Some(problem)),
        }
    }
    (kept, None)
}

#[test]
fn capabilities_are_kept_up_to_a_bound_and_others_have_theirs() {
    run(async || {
        let two = Two::begin().await;
        let vault = open(&two.greedy, two.anna.vault).await.unwrap();
        let (write, _) = begin(&vault).await.unwrap();
        let most = HELD_PER_ACCOUNT_MAX + 10;
        let check = async |what: &str, kept: usize, problem: Option<Problem>| {
            println!("{kept} of {what} are kept");
            assert_eq!(problem.map(|problem| problem.why), Some(Why::Busy), "{kept} of {what} are kept");
            two.works().await;
        };
        let (kept, problem) = keep(most, async || open(&two.greedy, two.anna.vault).await).await;
        check("vaults", kept.len(), problem).await;
        drop(kept);
        let (kept, problem) = keep(most, async || upload(&write).await).await;
        check("uploads", kept.len(), problem).await;
        drop(kept);
        let admin = async || {
            let answer = soon(two.greedy.admin_request().send().promise).await?;
            Ok::<_, Problem>(answer.get()?.get_admin()?)
        };
        let (kept, problem) = keep(most, admin).await;
        check("rights of an administrator", kept.len(), problem).await;
        drop(kept);
        let login = async || two.office.login(&two.wire.bootstrap, two.wire.key, &two.anna).await;
        let (kept, problem) = keep(most, login).await;
        check("logins", kept.len(), problem).await;
        drop(kept);
        until("what was given back can be had again", async || open(&two.greedy, two.anna.vault).await.is_ok()).await;
    });
}

#[test]
fn one_account_does_not_take_all_places_of_those_who_write() {
    run(async || {
        let two = Two::begin().await;
        let vault = open(&two.greedy, two.anna.vault).await.unwrap();
        // All at once, so that none of them sees the others.
        let asked: Vec<Promise<_, capnp::Error>> =
            (0..4 * SESSIONS_PER_ACCOUNT_MAX).map(|_| vault.begin_request().send().promise).collect();
        let mut sessions = Vec::new();
        for answer in soon(futures::future::join_all(asked)).await {
            match answer {
                Ok(answer) => sessions.push(answer.get().unwrap().get_session().unwrap()),
                Err(error) => assert_eq!(Problem::from(error).why, Why::Busy),
            }
        }
        assert_eq!(sessions.len(), SESSIONS_PER_ACCOUNT_MAX);
        two.works().await;
        drop(sessions);
        until("places come back", async || begin(&vault).await.is_ok()).await;
    });
}

#[test]
fn what_is_claimed_and_not_put_is_bounded() {
    run(async || {
        let two = Two::begin().await;
        let vault = open(&two.greedy, two.anna.vault).await.unwrap();
        let (write, _) = begin(&vault).await.unwrap();
        let mut number = 0_u64;
        let claim = async || {
            let mut ids = vec![0; 32 * IDS_MAX];
            for id in ids.chunks_exact_mut(32) {
                number += 1;
                id[..8].copy_from_slice(blake3::hash(&number.to_le_bytes()).as_bytes().first_chunk::<8>().unwrap());
            }
            let mut request = write.claim_request();
            request.get().set_ids(&ids);
            Ok::<_, Problem>(soon(request.send().promise).await.map(drop)?)
        };
        let most = CLAIMS_MAX / IDS_MAX;
        let (claimed, problem) = keep(2 * most, claim).await;
        println!("{} chunks are claimed", claimed.len() * IDS_MAX);
        assert_eq!(problem.map(|problem| problem.why), Some(Why::Usage), "{} batches", claimed.len());
        assert_eq!(claimed.len(), most);
        two.works().await;
    });
}
