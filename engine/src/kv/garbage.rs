//! Records that nobody needs any more.

use std::rc::Rc;

use super::saved::Saved;
use super::table::{Chunk, Table};
use super::view::Overlay;

/// Records freed per call, about.
const RECORDS_PER_SWEEP: usize = 256;

/// Tables and what was saved for views, taken down a few hundred records at a time: freeing a million at once would stop the core for
/// some tenths of a second.
#[derive(Default)]
pub(super) struct Garbage {
    chunks: Vec<Chunk>,
    saved: Vec<Saved>,
}

impl Garbage {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.saved.is_empty()
    }

    pub(super) fn add_table(&mut self, table: Table) {
        if table.len() > RECORDS_PER_SWEEP {
            self.chunks.extend(table.into_chunks());
        }
    }

    /// What is left of a view.
    pub(super) fn add_view(&mut self, view: Overlay) {
        let (saved, table) = view.into_parts();
        if saved.len() > RECORDS_PER_SWEEP {
            self.saved.push(saved);
        }
        // Another view may need the table still; the last one brings it here.
        if let Some(Ok(table)) = table.map(Rc::try_unwrap) {
            self.add_table(table);
        }
    }

    /// Frees some.
    pub(super) fn sweep(&mut self) {
        let mut freed = 0;
        while freed < RECORDS_PER_SWEEP {
            if let Some(chunk) = self.chunks.pop() {
                freed += chunk.len() + 1;
            } else if let Some(saved) = self.saved.last_mut() {
                let dropped = saved.drop_some(RECORDS_PER_SWEEP);
                freed += dropped;
                if dropped == 0 {
                    self.saved.pop();
                }
            } else {
                // The lists themselves.
                *self = Garbage::default();
                return;
            }
        }
    }
}
