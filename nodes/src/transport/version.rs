//! Which version of the protocol two programs speak.

use super::problem::{Problem, Why, problem};
use capnp::Error;
use capnp::capability::Response;
use twinkeep_schema::office_capnp::bootstrap;

/// What a program speaks. The newest version N serves N−1, so that an office can be updated machine by machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// The version it speaks best.
    pub newest: u16,
    /// The oldest it understands.
    pub oldest: u16,
}

/// What this program speaks.
pub const SPOKEN: Versions = Versions { newest: 1, oldest: 1 };

impl Versions {
    /// The version to speak with somebody who speaks that one at best, or who has chosen it.
    ///
    /// # Errors
    /// [`Why::Usage`]: it is not understood here any more.
    pub fn agree(self, other: u16) -> Result<u16, Problem> {
        let Self { newest, oldest } = self;
        match other.min(newest) {
            version if version >= oldest => Ok(version),
            _ => {
                let text = format!(
                    "protocol {other} is too old: twinkeep {} speaks {oldest} to {newest}; update the other machine",
                    super::limits::PROGRAM
                );
                Err(problem(Why::Usage, text))
            }
        }
    }
}

/// Says hello to a host; its answer, if both understand each other.
///
/// # Errors
/// Either is too old for the other.
pub async fn hello(host: &bootstrap::Client) -> Result<Response<bootstrap::hello_results::Owned>, Error> {
    let mut request = host.hello_request();
    request.get().set_version(SPOKEN.newest);
    let answer = request.send().promise.await?;
    SPOKEN.agree(answer.get()?.get_version())?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_serves_the_version_before_its_own() {
        let third = Versions { newest: 3, oldest: 2 };
        assert_eq!([2, 3, 4, u16::MAX].map(|other| third.agree(other).unwrap()), [2, 3, 3, 3]);
        for other in [0, 1] {
            let refused = third.agree(other).unwrap_err();
            assert_eq!(refused.why, Why::Usage);
            assert!(refused.text.contains("speaks 2 to 3"), "{refused}");
        }
        let Versions { newest, oldest } = SPOKEN;
        assert!(oldest <= newest && newest - oldest <= 1, "{SPOKEN:?}");
        assert_eq!(SPOKEN.agree(newest + 1).unwrap(), newest);
    }

    /// A host that answers with this version, whatever it is told.
    struct Host(u16);

    impl bootstrap::Server for Host {
        async fn hello(
            self: std::rc::Rc<Self>,
            _params: bootstrap::HelloParams,
            mut results: bootstrap::HelloResults,
        ) -> Result<(), Error> {
            results.get().set_version(self.0);
            Ok(())
        }
    }

    #[test]
    fn nobody_goes_on_with_a_host_that_is_too_old() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let greet = async |version| {
                let host: bootstrap::Client = capnp_rpc::new_client(Host(version));
                hello(&host).await.map(drop).map_err(Problem::from)
            };
            greet(SPOKEN.newest).await.unwrap();
            assert_eq!(greet(SPOKEN.oldest - 1).await.unwrap_err().why, Why::Usage);
        });
    }
}
