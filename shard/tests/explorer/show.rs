//! A state as text.

use std::fmt;

use super::world::World;

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, member) in self.members.iter().enumerate() {
            let terms: Vec<String> = member.log.iter().map(|e| e.term.to_string()).collect();
            let members = member.group.membership();
            let disk: Vec<String> = member.disk.log.iter().map(|e| e.term.to_string()).collect();
            let (role, term, commit) = (member.group.role(), member.group.term(), member.group.commit());
            writeln!(
                f,
                "    {at}: {role:?} of term {term}, log {terms:?}, disk {disk:?}, commit {commit}, {members}"
            )?;
        }
        Ok(())
    }
}
