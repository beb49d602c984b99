//! Questions to the outside: asked once for all who wait for the answer.

use std::collections::HashMap;

use mizzen_ir::Config;
use mizzen_types::Name;

use crate::{
    Action, ConnId, Question, WaitId, WaitTag,
    context::Context,
    event::Event,
    id::{Slab, StreamId},
};

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    Stream(StreamId),
    Conn(ConnId),
}

/// One question and those who wait.
#[derive(Debug)]
struct Wait {
    question: Question,
    waiters: Vec<Waiter>,
}

/// The questions that are open.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    waits: Slab<Wait>,
    by_question: HashMap<Question, WaitId>,
}

impl Questions {
    /// Asks a question, unless it was asked already; `waiter` is told of the answer.
    pub(crate) fn ask(&mut self, cx: &mut Context, question: Question, waiter: Option<Waiter>) -> WaitId {
        self.ask_for(cx, question, waiter, Name::default)
    }

    /// The same; the first who asks says for what.
    pub(crate) fn ask_for(&mut self, cx: &mut Context, question: Question, waiter: Option<Waiter>, why: impl FnOnce() -> Name) -> WaitId {
        let id = match self.by_question.get(&question) {
            Some(id) => *id,
            None => {
                let id = self.waits.insert::<WaitTag>(Wait { question: question.clone(), waiters: Vec::new() });
                self.by_question.insert(question.clone(), id);
                cx.actions.push(Action::Ask(id, question, why()));
                id
            }
        };
        if let (Some(wait), Some(waiter)) = (self.waits.get_mut(id), waiter) {
            wait.waiters.push(waiter);
        }
        id
    }

    /// A question is answered: who waited looks again. What was asked; none if that is over.
    pub(crate) fn answered(&mut self, cx: &mut Context, id: WaitId) -> Option<Question> {
        let wait = self.waits.remove(id)?;
        self.by_question.remove(&wait.question);
        cx.inbox.extend(wait.waiters.into_iter().map(|waiter| match waiter {
            Waiter::Stream(stream) => Event::Answered(stream),
            Waiter::Conn(conn) => Event::ConnAnswered(conn),
        }));
        Some(wait.question)
    }

    /// Questions for resources that a configuration has are answered.
    pub(crate) fn arrived(&mut self, cx: &mut Context, config: &Config) {
        let there = |question: &Question| matches!(question, Question::Resource { kind, name } if kind.is_in(config, name));
        let arrived: Vec<WaitId> = self.by_question.iter().filter(|(question, _)| there(question)).map(|(_, id)| *id).collect();
        for id in arrived {
            self.answered(cx, id);
        }
    }

    /// How many wait for names.
    pub(crate) fn waiting_for_names(&self) -> usize {
        self.waits.values().filter(|wait| matches!(wait.question, Question::Dns { .. })).map(|wait| wait.waiters.len()).sum()
    }

    /// Somebody waits no more.
    pub(crate) fn leave(&mut self, id: WaitId, waiter: Waiter) {
        if let Some(wait) = self.waits.get_mut(id) {
            wait.waiters.retain(|one| *one != waiter);
        }
    }

    /// The most who wait for one answer.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn most_waiters(&self) -> usize {
        self.waits.values().map(|wait| wait.waiters.len()).max().unwrap_or_default()
    }
}
