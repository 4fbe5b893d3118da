"""The store that the settings name."""

from service.errors import DependencyUnavailable
from service.settings import Settings
from service.storage.files import Folder, Store


def open_store(settings: Settings) -> Store:
    """A folder, or a bucket of an S3 service; raises DependencyUnavailable where the extra for it is not installed."""
    if not settings.storage_url.startswith("s3:"):
        return Folder(settings.files)
    try:
        from service.storage.bucket import Bucket  # noqa: PLC0415 - boto3 is an extra
    except ModuleNotFoundError as error:
        raise DependencyUnavailable("TEMPER_STORAGE_URL names S3; its client is the extra s3: pip install 'temper[s3]'") from error
    return Bucket(settings.storage_url, settings.data, settings.cache_bytes)
