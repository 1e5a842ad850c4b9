//! Three cores elect, commit, apply, answer, restart.
mod common;

use common::{Cluster, Setup, ms, payload};

#[test]
fn three_cores_elect_commit_apply_and_answer() {
    let mut cluster = Cluster::new(Setup::default());
    cluster.elect();
    let mut tokens = Vec::new();
    for n in 0..640 {
        let group = n % 64 + 1;
        let leader = cluster.leader(group);
        tokens.push((leader, cluster.propose(leader, group, &payload(n)), n));
    }
    cluster.run_for(ms(100));
    for (leader, token, n) in tokens {
        let answer = cluster.answer(leader, token).expect("answered");
        assert!(answer.result.is_ok(), "{:?}", answer.result);
        assert_eq!(answer.reply, payload(n));
    }
    cluster.settle();
}
