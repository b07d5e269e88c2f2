"""Where does survive a crash what is held, and what people did? In SQLite or PostgreSQL, behind one `Store`."""

from cfbridge.store.nouns import Audited as Audited
from cfbridge.store.nouns import Confirmed as Confirmed
from cfbridge.store.nouns import Drafted as Drafted
from cfbridge.store.nouns import Revised as Revised
from cfbridge.store.store import Deposed as Deposed
from cfbridge.store.store import Store as Store
from cfbridge.store.store import Stored as Stored
