"""`celery -A jsm_queue.monitor flower`: the app that Flower watches."""

from jsm_queue import broker, tls
from jsm_queue.settings import settings

app = broker.monitor(settings().broker_url or "", tls.read_ca(settings().broker_ca))
