//! The Redis-cluster-style front door of a node. Skeleton of the interface; the implementation follows.

mod config;

pub use config::{FrontDoorConfig, FrontDoorError, Limits};
use logdrive::runtime::Service;

/// Opens the client address (an address in use is an error here, before anything is started) and returns what
/// [`Engine::start`](logdrive::runtime::Engine::start) runs on each core.
pub fn service(_config: FrontDoorConfig) -> Result<Box<Service>, FrontDoorError> {
    Ok(Box::new(|_client| Box::pin(async {})))
}
