//! Whether the host can be reached, asked from outside: what it says of itself, and clocks that differ.

mod office;

use office::{Office, run};
use std::sync::Arc;
use std::time::Duration;
use twinkeep_engine::env::{Clock, Env, Time};
use twinkeep_nodes::remote::reach::{Answer, Reach, try_all};
use twinkeep_nodes::tracker::names::NodeKey;
use twinkeep_nodes::transport::limits::PROGRAM;
use twinkeep_nodes::transport::version::SPOKEN;

/// The system's clock, set wrong.
struct Wrong(Arc<dyn Clock>, i64);

impl Clock for Wrong {
    fn now(&self) -> Time {
        Time(self.0.now().0 + self.1 * 1_000_000_000)
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Tries one address from a machine whose clock is so many seconds ahead of this one's.
async fn from_machine(address: String, key: NodeKey, ahead: i64) -> Reach {
    let system = Env::system(1);
    let env = Env { clock: Arc::new(Wrong(system.clock.clone(), ahead)), ..system };
    let tried = tokio::task::spawn_blocking(move || try_all(&[address], key, &env)).await.unwrap().unwrap();
    tried.into_iter().next().unwrap().1
}

#[test]
fn the_host_says_who_it_is_and_what_time_it_has() {
    run(async || {
        let office = Office::start().await;
        let address = office.address.to_string();
        for wrong in [0, 7200, -7200] {
            let reach = from_machine(address.clone(), office.host.key(), wrong).await;
            let Reach::Host(Answer { name, program, protocol, ahead, round }) = reach else { panic!("{reach:?}") };
            assert_eq!((&name[..], &program[..], protocol), ("office", PROGRAM, SPOKEN.newest));
            // No better than the question took, and half of that.
            let off = (ahead + wrong * 1_000_000_000).unsigned_abs();
            assert!(Duration::from_nanos(off) <= round, "{wrong} s: {ahead} ns, a round of {round:?}");
        }
        assert_eq!(from_machine(address, NodeKey([7; 32]), 0).await, Reach::OtherKey);
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(from_machine(port.to_string(), office.host.key(), 0).await, Reach::Refused);
        let unknown = from_machine("nowhere.invalid:7272".into(), office.host.key(), 0).await;
        assert!(matches!(unknown, Reach::Unknown(_)), "{unknown:?}");
        let nonsense = from_machine("no port".into(), office.host.key(), 0).await;
        assert!(matches!(nonsense, Reach::Unknown(_)), "{nonsense:?}");
    });
}
