//! What an embedding program sees: outcomes, state machines, settings.

mod completion;
mod error;
mod machine;
mod per_group;
mod session;
mod settings;
mod snapshot;

pub use completion::{Completion, Completions};
pub use error::{Busy, Error, Retry};
pub use machine::{ApplyEntry, Replies, StateMachine, VIEWS_PER_GROUP_MAX};
pub use per_group::{GroupState, PerGroup};
pub use session::{Session, SessionCall};
pub use settings::{CoreSettings, ReadPolicy, SnapshotSettings, TimingPreset};
pub use snapshot::{BadSnapshot, BytesLoading, BytesView, exactly};
