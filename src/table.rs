//! A table whose places are used again, and whose ids tell a place's holder from those before it.
//! It knows nothing of what is in it.

use ringpost_core::ids::ConnId;

/// Values by [`ConnId`].
#[derive(Debug)]
pub struct Table<T> {
    slots: Vec<Slot<T>>,
    /// The free place that was given back last; the others follow from it.
    free: Option<u32>,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    holder: Holder<T>,
}

#[derive(Debug)]
enum Holder<T> {
    Free { next: Option<u32> },
    Value(T),
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { slots: Vec::new(), free: None, len: 0 }
    }
}

impl<T> Table<T> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many places there are, free ones included: indices are below this.
    pub fn places(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Puts a value in.
    pub fn insert(&mut self, value: T) -> ConnId {
        self.len += 1;
        let Some(index) = self.free else {
            let index = u32::try_from(self.slots.len()).expect("fewer places than descriptors");
            self.slots.push(Slot { generation: 0, holder: Holder::Value(value) });
            return ConnId { index, generation: 0 };
        };
        let slot = &mut self.slots[index as usize];
        let Holder::Free { next } = slot.holder else { panic!("a free place holds nothing") };
        self.free = next;
        slot.holder = Holder::Value(value);
        ConnId { index, generation: slot.generation }
    }

    /// The value, unless it has gone.
    #[inline]
    pub fn get(&self, id: ConnId) -> Option<&T> {
        match self.slots.get(id.index as usize) {
            Some(Slot { generation, holder: Holder::Value(value) })
                if *generation == id.generation =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    /// The value, unless it has gone.
    #[inline]
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        match self.slots.get_mut(id.index as usize) {
            Some(Slot { generation, holder: Holder::Value(value) })
                if *generation == id.generation =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    /// Takes the value out; its place gets a new generation.
    pub fn remove(&mut self, id: ConnId) -> Option<T> {
        self.get(id)?;
        let slot = &mut self.slots[id.index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let holder = std::mem::replace(&mut slot.holder, Holder::Free { next: self.free });
        self.free = Some(id.index);
        self.len -= 1;
        match holder {
            Holder::Value(value) => Some(value),
            Holder::Free { .. } => None,
        }
    }

    /// Who holds this place now.
    pub fn holder(&self, index: u32) -> Option<ConnId> {
        match self.slots.get(index as usize) {
            Some(Slot { generation, holder: Holder::Value(_) }) => {
                Some(ConnId { index, generation: *generation })
            }
            _ => None,
        }
    }

    /// The ids of all values.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> {
        (0..self.places()).filter_map(|index| self.holder(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_does_not_find_the_new_holder_of_its_place() {
        let mut table = Table::default();
        let one = table.insert("one");
        let two = table.insert("two");
        assert_eq!(table.remove(one), Some("one"));
        assert_eq!(table.remove(one), None);
        let three = table.insert("three");
        assert_eq!(three.index, one.index, "the place is used again");
        assert_eq!(table.get(one), None);
        assert_eq!(table.get_mut(one), None);
        assert_eq!(table.get(three), Some(&"three"));
        assert_eq!(table.ids().collect::<Vec<_>>(), [three, two]);
        assert_eq!((table.len(), table.places()), (2, 2));
    }

    #[test]
    fn free_places_are_all_used_before_new_ones() {
        let mut table = Table::default();
        let ids: Vec<_> = (0..10).map(|n| table.insert(n)).collect();
        for id in &ids {
            table.remove(*id);
        }
        assert_eq!(table.len(), 0);
        for n in 0..10 {
            assert_eq!(table.insert(n).generation, 1);
        }
        assert_eq!(table.places(), 10);
        assert_eq!(table.insert(10), ConnId { index: 10, generation: 0 });
    }
}
