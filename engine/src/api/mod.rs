//! What an embedding program sees: outcomes, state machines, settings.

mod completion;
mod error;
mod machine;
mod session;
mod settings;

pub use completion::{Completion, Completions};
pub use error::{Busy, Error, Retry};
pub use machine::{ApplyEntry, Replies, StateMachine};
pub use session::{Session, SessionCall};
pub use settings::{CoreSettings, ReadPolicy, TimingPreset};
