"""What only the database of a store knows."""

from twisted.application.service import IService
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.errors import TryLater
from popserv.interfaces import IMeasuredStore
from popserv.metrics import catalogue
from popserv.metrics.store_survey import MAX_AGE, StoreSurvey


@implementer(IMeasuredStore)
class Store:
    """A store whose database answers, or does not."""

    is_away = False

    async def survey(self):
        """See IMeasuredStore."""
        if self.is_away:
            raise TryLater
        return {"maildrops": 3, "messages": 40, "collection_delay": 0.5, "standbys": 2}


class StoreSurveyTests(SynchronousTestCase):
    """StoreSurvey."""

    def test_survey(self):
        """What the database has said is told, and no more when it is too old."""
        store, clock = Store(), Clock()
        survey = StoreSurvey(store, clock)
        verifyObject(IService, survey)
        self.assertEqual(survey.samples(), {})
        survey.startService()
        samples = {
            catalogue.MAILDROPS.name: {(): 3},
            catalogue.MESSAGES.name: {(): 40},
            catalogue.COLLECTION_DELAY.name: {(): 0.5},
            catalogue.STANDBYS.name: {(): 2},
        }
        self.assertEqual(survey.samples(), samples)
        clock.pump([1] * 100)
        self.assertEqual(survey.samples(), samples)
        store.is_away = True
        clock.pump([1] * int(MAX_AGE))
        clock.pump([1] * 60)
        self.assertEqual(survey.samples(), {})
        self.successResultOf(survey.stopService())
        self.assertEqual(clock.getDelayedCalls(), [])
